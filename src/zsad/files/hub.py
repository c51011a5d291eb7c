"""Fetches a file of a Hugging Face repository."""

from __future__ import annotations

from pathlib import Path

from zsad.errors import WeightsError
from zsad.files.cache import is_offline


def hub_file(
    repository: str, filename: str, revision: str | None = None, *, offline: bool | None = None
) -> Path | None:
    """One file of a Hugging Face repository, from huggingface_hub's cache or the network.

    Args:
        repository: name of the repository, "ORG/REPO".
        filename: path of the file inside the repository.
        revision: branch, tag or commit; None for the default branch.
        offline: whether network access is forbidden; None follows the environment, see `is_offline`.

    Returns:
        Path of the file; None if the repository does not have it, or offline if it is not cached.

    Raises:
        WeightsError: the repository or revision does not exist or needs consent, there is no network, or the
            disk is full.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"hf-hub:{repository}" + (f"@{revision}" if revision else "")
    quiet = is_offline(offline)
    try:
        return Path(
            hf_hub_download(
                repository, filename, revision=revision, local_files_only=quiet, library_name="zsad"
            )
        )
    except HFValidationError as error:
        raise WeightsError(
            f"{where!r} is not of the form hf-hub:ORG/REPO or hf-hub:ORG/REPO@REVISION"
        ) from error
    except LocalEntryNotFoundError as error:  # a subclass of EntryNotFoundError, so it comes first
        if quiet:
            return None
        raise WeightsError(
            f"cannot reach the Hugging Face hub for {filename} of {where}: check the network, "
            "or download the repository elsewhere and give its folder as a path"
        ) from error
    except EntryNotFoundError:
        return None
    except GatedRepoError as error:
        raise WeightsError(
            f"{where} requires your consent: give it on its page, then run `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise WeightsError(
            f"the Hugging Face hub has no repository {repository!r} (or it is private): check the spelling"
        ) from error
    except RevisionNotFoundError as error:
        raise WeightsError(f"{repository} has no revision {revision!r} on the Hugging Face hub") from error
    except Exception as error:  # exceptions of its HTTP client differ between versions
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise WeightsError(f"cannot fetch {filename} of {where}: {reason}") from error
