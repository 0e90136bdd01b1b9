"""From a folder to a repository of the Hugging Face Hub, in one commit."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from trelm.errors import RunFolderError, TrelmError

MESSAGE = "Model, tokenizer and card, by trelm"
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
_PASSES_BY = (".git", ".cache")  # bookkeeping of git and of the Hub's own client
# HfHubHTTPError is an OSError and an error of the client's transport, whose other errors have only that base.
_FAILURES: tuple[type[Exception], ...] = (
    *(kind for kind in HfHubHTTPError.__mro__ if issubclass(kind, Exception) and kind is not Exception),
    *(ValueError, RuntimeError),
)


def push(
    folder: Path,
    repo: str,
    *,
    private: bool = False,
    token: str | None = None,
    endpoint: str | None = None,
    revision: str | None = None,
) -> str:
    """Upload every file of a model folder to a model repository, which is made where there is none, in one commit.

    Files of the repository that the folder does not have stay there. (`upload_folder` of the Hub's client may make
    several commits; a reader who comes in between would get a mixture.)

    Args:
        folder: what `write_folder` wrote. repo: `name` or `owner/name`.
        private: make the repository private; one that is there and public is refused, not changed.
        token: the one of `hf auth login` or HF_TOKEN by default. endpoint: another Hub than huggingface.co.
        revision: a branch, made where there is none; `main` by default.

    Returns:
        The address of the commit.

    Raises:
        RunFolderError: no model folder. TrelmError: not logged in, no right to write there, no such owner, the Hub
            cannot be reached, or it refused the upload.
    """
    operations = _operations(folder)
    if token is None:
        require_token(repo)
    api = HfApi(endpoint=endpoint, token=token)
    try:
        url = api.create_repo(repo, private=private or None, exist_ok=True)
        name = repo if "/" in repo else url.repo_id
        if private and not api.model_info(name).private:
            raise TrelmError(
                f"--push {repo}: expected a private repository, found a public one; make it private on the Hub, or "
                "give another name"
            )
        if revision is not None:
            api.create_branch(name, branch=revision, exist_ok=True)
        commit = api.create_commit(name, operations, commit_message=MESSAGE, revision=revision)
    except _FAILURES as error:
        raise TrelmError(f"--push {repo}: {_explanation(error)}") from None
    return str(commit.commit_url)


def require_token(repo: str) -> None:
    """Refuse to go on where nobody is logged in.

    Raises:
        TrelmError: no token of `hf auth login`, and none in HF_TOKEN.
    """
    if get_token() is None:
        raise TrelmError(f"--push {repo}: expected a token of the Hub, found none; {_LOG_IN}")


def _operations(folder: Path) -> list[CommitOperationAdd]:
    """Every file of the folder, in order of its name."""
    if not (folder / "config.json").is_file():
        raise RunFolderError(f"{folder}: expected a model folder with a config.json, found none; export first")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder) for path in files]
    return [
        CommitOperationAdd(name.as_posix(), folder / name)
        for name in names
        if not set(name.parts[:-1]).intersection(_PASSES_BY)
    ]


def _explanation(error: BaseException) -> str:
    """What went wrong, in one line with what to do."""
    cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ is not None else error
    if isinstance(cause, OfflineModeIsEnabled):
        return "expected to reach the Hub, found HF_HUB_OFFLINE set; unset it"
    if isinstance(cause, HfHubHTTPError):
        status = cause.response.status_code
        if status in _REFUSALS:
            return _REFUSALS[status]
        said = cause.server_message or str(cause)
        return (
            f"the Hub refused the upload (status {status}: {_one_line(said)}); mend what it names, or try again later"
        )
    if isinstance(cause, ValueError):
        return f"the Hub would not take it ({_one_line(str(cause))}); mend what it names"
    return f"expected to reach the Hub, found none ({_one_line(str(cause))}); check the connection"


_REFUSALS = {
    401: f"expected a valid token of the Hub, found one that it does not know; {_LOG_IN}",
    403: "expected the right to write there, found that the token has none; give your own name or organisation as the "
    "repository's owner, and a token of kind `write`",
    404: "expected an owner and a repository that exist, found none of that name; check the part before the slash",
}


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200] or "no reason given"
