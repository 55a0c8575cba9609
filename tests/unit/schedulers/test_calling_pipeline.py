"""A scheduler finds the pipeline that it works for."""

from diffusers import DiffusionPipeline

from ddpm_from_scratch.schedulers.calling_pipeline import calling_pipeline


class Asked:
    """Stands for a scheduler, which is asked from inside a pipeline's call."""

    def step(self, method="__call__"):
        return calling_pipeline(method, self)


class Pipeline(DiffusionPipeline):
    def __init__(self, scheduler, prior_scheduler=None):
        super().__init__()
        self.scheduler, self.prior_scheduler = scheduler, prior_scheduler

    def __call__(self, asked, depth=0):
        return asked.step() if depth == 0 else (lambda: self._deeper(asked, depth))()

    def _deeper(self, asked, depth):
        return asked.step() if depth == 0 else self._deeper(asked, depth - 1)


def test_the_pipeline_that_calls_is_found_through_other_calls():
    asked = Asked()
    pipeline = Pipeline(asked)
    assert pipeline(asked) is pipeline and pipeline(asked, depth=4) is pipeline


def test_other_callers_and_other_methods_are_none():
    asked = Asked()
    assert asked.step() is None
    assert Pipeline(asked, prior_scheduler=Asked())(Asked()) is None

    class Caller:
        scheduler = asked

        def __call__(self):
            return asked.step()

    assert Caller()() is None
    assert Pipeline(asked)(asked, depth=50) is None
