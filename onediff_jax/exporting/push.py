"""Uploading an export to the Hugging Face hub, or to a server like it (HF_ENDPOINT)."""

import dataclasses
import re
import time
from pathlib import Path

from onediff_jax.exporting.place import ExportError

_TRIES = 4  # of a hub that is busy or has a fault, 1, 2 and 4 seconds apart
_PAUSE = 1.0  # seconds
_LATER = (429, 500, 502, 503, 504)
# What an answer of the hub means, and what to do.
_ANSWERS = {
    401: "the token is not valid: `hf auth login` asks for another, or set HF_TOKEN",
    403: "the token may not write there: make one that may at the hub, and `hf auth login`",
    404: "there is no such owner, or the token may not see it: --push=OWNER/NAME names you or an "
    "organisation of yours",
    429: "it has had too many requests: try again later, with --overwrite",
}
_REPO = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")


@dataclasses.dataclass(frozen=True)
class Push:
    """Where an export is uploaded to.

    Attributes:
      repo: OWNER/NAME, made where it does not exist.
      private: of a new repository.
      revision: a branch, made where it does not exist.

    Raises ValueError for another form of repo.
    """

    repo: str
    private: bool = False
    revision: str | None = None

    def __post_init__(self):
        if not _REPO.fullmatch(self.repo):
            raise ValueError(f"push={self.repo!r} must be OWNER/NAME")

    def check(self) -> None:
        """Raises ExportError, before any work, where nothing could be uploaded."""
        try:
            from huggingface_hub import get_token
        except ImportError as error:
            raise ExportError(
                "--push needs huggingface_hub: pip install huggingface_hub"
            ) from error
        if get_token() is None:
            raise ExportError(
                f"--push={self.repo} needs a token of the hub: `hf auth login` asks for one, or"
                " set HF_TOKEN"
            )

    def upload(self, folder: Path, message: str) -> str:
        """Uploads a folder in one commit; returns its address.

        What is there already by content is not sent again, so the same command goes on where a
        connection was lost. An answer that says "later" (429, 500 …) is heard so many times. Raises
        ExportError with what the hub's answer means; the folder stays.
        """
        from huggingface_hub.errors import HfHubHTTPError

        for number in range(_TRIES):
            try:
                return self._upload(folder, message)
            except (HfHubHTTPError, OSError, ValueError) as error:
                status = getattr(getattr(error, "response", None), "status_code", None)
                if status in _LATER and number + 1 < _TRIES:
                    time.sleep(_PAUSE * 2**number)
                    continue
                told = f"{status}: {_ANSWERS[status]}" if status in _ANSWERS else None
                reason = " ".join(str(error).split())[:300] or type(error).__name__
                if told is None:
                    told = f"{reason}. Try again later, with --overwrite"
                tried = f" {_TRIES} times" if status in _LATER else ""
                raise ExportError(
                    f"{folder} is written, and uploading it to {self.repo} failed{tried}: {told}"
                ) from error
        raise AssertionError  # the last try returns or raises

    def _upload(self, folder: Path, message: str) -> str:
        from huggingface_hub import HfApi

        api = HfApi()
        made = api.create_repo(self.repo, private=self.private, exist_ok=True)
        if self.revision:
            api.create_branch(made.repo_id, branch=self.revision, exist_ok=True)
        done = api.upload_folder(
            repo_id=made.repo_id,
            folder_path=folder,
            revision=self.revision,
            commit_message=message,
            delete_patterns=["*.py", "*.safetensors", "*.safetensors.index.json"],
        )
        return str(getattr(done, "commit_url", done))
