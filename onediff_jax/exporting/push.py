"""Uploading an export to the Hugging Face hub, or to a server like it (HF_ENDPOINT)."""

import dataclasses
import re
from pathlib import Path

from onediff_jax.exporting.place import ExportError

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
        connection was lost. Raises ExportError with the hub's answer; the folder stays.
        """
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError

        api = HfApi()
        try:
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
        except (HfHubHTTPError, OSError, ValueError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ExportError(
                f"{folder} is written, and uploading it to {self.repo} failed: {reason}. Log in"
                " with `hf auth login`, or try again with --overwrite"
            ) from error
        return str(getattr(done, "commit_url", done))
