"""A finished run goes to the Hub: the weights are checked first, and the card names the repository."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..hub.safe_loading import variants
from ..hub.upload import PushError, push_folder
from ..pipeline_ddpm_from_scratch import DDPMFromScratchPipeline
from ..runtime.errors import ConfigError, UploadError
from .results import RunRecord


def publish(
    folder: Path,
    repo_id: str | None = None,
    *,
    private: bool = False,
    token: str | None = None,
    branch: str | None = None,
    tag: str | None = None,
    with_report: bool = True,
) -> str:
    """Check the pipeline of a folder, write its card, upload both, and return the address.

    Arguments as in `hub.upload.push_folder`; without repo_id the repository has the folder's name.

    Raises:
        ConfigError: no pipeline in the folder, or a damaged one.
        UploadError: the Hub refused or cannot be reached.
    """
    if not (folder / "model_index.json").is_file():
        raise ConfigError(f"{str(folder)!r} holds no pipeline (model_index.json): give the folder of a run.")
    has_report = with_report and (folder / "results.json").is_file()

    def name_repository(published_as: str) -> None:
        RunRecord.read(folder).with_repository(published_as).write()

    with hub_errors():
        for variant in variants(folder) or [None]:
            DDPMFromScratchPipeline.from_pretrained(folder, variant=variant)
        return push_folder(
            folder,
            repo_id or folder.resolve().name,
            private=private,
            token=token,
            branch=branch,
            tag=tag,
            with_report=with_report,
            before_upload=name_repository if has_report else None,
        )


@contextmanager
def hub_errors(name: str = "", upload: str = "") -> Iterator[None]:
    """Make what the package raises about an upload an end of the run: a wrong value, or the Hub's refusal.

    Args:
        name: what to say before the message of a wrong value.
        upload: what to say before that of an upload that failed.
    """
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"{name}{error}") from error
    except PushError as error:
        raise UploadError(f"{upload}{error}") from error
