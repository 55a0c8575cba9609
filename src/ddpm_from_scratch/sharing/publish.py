"""A finished run goes to the Hub: the weights are checked first, and the card names the repository."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub.utils import validate_repo_id

from ..hub.cards import plain_card
from ..hub.safe_loading import variants
from ..hub.upload import PushError, files_to_upload, push_folder
from ..pipeline_ddpm_from_scratch import DDPMFromScratchPipeline
from ..runtime.errors import ConfigError, UploadError
from .results import RunRecord


def plan(folder: Path, repo_id: str | None = None, trust_remote_code: bool = False) -> str:
    """Return in words what `publish` would upload, after its checks: files, sizes and the card.

    Args:
        folder: with the pipeline.
        repo_id: as for `publish`; without a user, the card has none.
        trust_remote_code: as for `publish`.

    Raises:
        ConfigError: as in `publish`.
    """
    _check_weights(folder, trust_remote_code)
    name, files = repo_id or folder.resolve().name, files_to_upload(folder)
    with hub_errors("--repo_id: "):
        validate_repo_id(name)
    record = _record(folder, name)
    if record is not None and record.may_write_card:
        card, source = record.card(), "written anew for the repository"
    elif "README.md" in files:
        card, source = (folder / "README.md").read_text(), "as it is in the folder"
    else:
        card, source = str(plain_card(folder, name)), "made of the pipeline alone, if the repository has none"
    sizes = {file: (folder / file).stat().st_size for file in files} | {"README.md": len(card.encode())}
    kept_home = sorted({str(path.name) for path in folder.iterdir()} - {file.split("/")[0] for file in sizes})
    lines = [f"would upload to {name}, and has uploaded nothing:"]
    lines += [f"{size:>15,} bytes  {file}" for file, size in sorted(sizes.items())]
    lines += [f"{sum(sizes.values()):>15,} bytes  in {len(sizes)} files"]
    lines += [f"stays here: {', '.join(kept_home)}"] if kept_home else []
    return "\n".join([*lines, f"the card, README.md, {source}:", "", card])


def publish(
    folder: Path,
    repo_id: str | None = None,
    *,
    private: bool = False,
    token: str | None = None,
    branch: str | None = None,
    tag: str | None = None,
    with_report: bool = True,
    trust_remote_code: bool = False,
) -> str:
    """Check the pipeline of a folder, write its card, upload both, and return the address.

    Arguments as in `hub.upload.push_folder`; without repo_id the repository has the folder's name, and with
    trust_remote_code the check runs the folder's code of a network whose class is not known.

    Raises:
        ConfigError: no pipeline in the folder, or a damaged one.
        UploadError: the Hub refused or cannot be reached.
    """
    _check_weights(folder, trust_remote_code)

    def name_repository(published_as: str) -> None:
        record = _record(folder, published_as) if with_report else None
        if record is not None:
            record.write()

    with hub_errors():
        return push_folder(
            folder,
            repo_id or folder.resolve().name,
            private=private,
            token=token,
            branch=branch,
            tag=tag,
            with_report=with_report,
            before_upload=name_repository,
        )


def _record(folder: Path, repo_id: str) -> RunRecord | None:
    """Return the record that is published as `repo_id`, and writes the card; None if a folder has none.

    Raises:
        ConfigError: results.json is damaged, or of an earlier version.
    """
    if not (folder / "results.json").is_file():
        return None
    with hub_errors("results.json cannot be read: "):
        return RunRecord.read(folder).with_repository(repo_id)


def _check_weights(folder: Path, trust_remote_code: bool) -> None:
    """Raise ConfigError unless the pipeline of a folder, and each variant of its weights, can be loaded."""
    if not (folder / "model_index.json").is_file():
        raise ConfigError(f"{str(folder)!r} holds no pipeline (model_index.json): give the folder of a run.")
    with hub_errors():
        for variant in variants(folder) or [None]:
            DDPMFromScratchPipeline.from_pretrained(
                folder, variant=variant, trust_remote_code=trust_remote_code
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
