"""Pushing a folder, against a stand-in of the Hub that keeps what arrives.

The client runs in a process of its own: the environment of the tests forbids it the network from the start.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_stand_in import OWNER, READ_TOKEN, TOKEN, Hub, running_hub

from trelm.errors import RunFolderError, TrelmError
from trelm.export.hub import push

PROGRAM = """
import json, sys
from pathlib import Path
from trelm.errors import TrelmError
from trelm.export.hub import push
answers = {}
for name, (folder, repo, options) in json.load(sys.stdin).items():
    try:
        answers[name] = push(Path(folder), repo, **options)
    except TrelmError as error:
        answers[name] = f"{type(error).__name__}: {error}"
print(json.dumps(answers))
"""
Answers = dict[str, str]


def client(requests: dict[str, Any], home: Path) -> Answers:
    """What `push` says to each request, in a process without this one's settings, whose token is in HF_TOKEN."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    settings = {**kept, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(requests),
        env={**settings, "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like an exported one: small and large files, one above a chunk, an empty one, one in a sub-folder."""
    made = tmp_path_factory.mktemp("exported") / "model"
    (made / "onnx").mkdir(parents=True)
    (made / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    (made / "README.md").write_text("---\nlanguage: id\n---\n# Ä card\n", encoding="utf-8")
    (made / "merges.txt").write_bytes(b"")
    (made / "model.safetensors").write_bytes(bytes(range(256)) * 5000)
    (made / "onnx" / "model.onnx").write_bytes(b"\x00\xff\r\n" * 999)
    return made


@pytest.fixture(scope="module")
def outcome(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hub, str, Answers]]:
    """A series of pushes, in this order, and what the stand-in has afterwards."""
    home = tmp_path_factory.mktemp("home")
    bad = tmp_path_factory.mktemp("bad")
    (bad / "config.json").write_text("{}", encoding="utf-8")
    (bad / "README.md").write_text("---\nlanguage: ID\n---\n", encoding="utf-8")
    kept = tmp_path_factory.mktemp("kept")
    for name in ("config.json", ".git/HEAD", ".cache/huggingface/x", "sub/kept.txt"):
        (kept / name).parent.mkdir(parents=True, exist_ok=True)
        (kept / name).write_text("{}", encoding="utf-8")
    with socket.socket() as closed:  # bound, so that nobody else takes the port, and not listening
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with running_hub() as (hub, address):
            here = {"endpoint": address, "token": TOKEN}
            requests = {
                "new": [str(folder), f"{OWNER}/model", here],
                "again": [str(folder), f"{OWNER}/model", here],
                "without owner": [str(folder), "bare", here],
                "private": [str(folder), f"{OWNER}/secret", {**here, "private": True}],
                "private again": [str(folder), f"{OWNER}/secret", {**here, "private": True}],
                "public asked private": [str(folder), f"{OWNER}/model", {**here, "private": True}],
                "branch": [str(folder), f"{OWNER}/model", {**here, "revision": "v1.0"}],
                "branch again": [str(folder), f"{OWNER}/model", {**here, "revision": "v1.0"}],
                "unknown token": [str(folder), f"{OWNER}/x", {**here, "token": "hf_wrong"}],
                "reading token": [str(folder), f"{OWNER}/x", {**here, "token": READ_TOKEN}],
                "another's name": [str(folder), "another/x", here],
                "no name": [str(folder), "a/b/c", here],
                "bad card": [str(bad), f"{OWNER}/bad", here],
                "from the environment": [str(folder), f"{OWNER}/e", {"endpoint": address}],
                "with bookkeeping": [str(kept), f"{OWNER}/kept", here],
                "refused": [str(folder), f"{OWNER}/x", {"endpoint": nobody, "token": TOKEN}],
            }
            yield hub, address, client(requests, home)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["model", "bare", "secret", "e"])
def test_every_byte_of_every_file_arrives_in_one_commit(
    outcome: tuple[Hub, str, Answers], folder: Path, name: str
) -> None:
    first = outcome[0].repositories[f"{OWNER}/{name}"].commits["main"][0]
    assert first == contents(folder)
    assert {path for path in first if path.endswith((".safetensors", ".onnx"))} == {
        "model.safetensors",
        "onnx/model.onnx",
    }


def test_each_push_is_one_commit_whose_address_is_returned(outcome: tuple[Hub, str, Answers]) -> None:
    hub, address, answers = outcome
    assert [len(commits) for commits in hub.repositories[f"{OWNER}/model"].commits.values()] == [2, 2]
    assert answers["new"] == f"{address}/{OWNER}/model/commit/{1:040x}"
    assert answers["again"] == f"{address}/{OWNER}/model/commit/{2:040x}"
    assert answers["without owner"] == f"{address}/{OWNER}/bare/commit/{1:040x}"
    assert answers["from the environment"] == f"{address}/{OWNER}/e/commit/{1:040x}"


def test_a_branch_gets_the_files_and_main_does_not(outcome: tuple[Hub, str, Answers], folder: Path) -> None:
    commits = outcome[0].repositories[f"{OWNER}/model"].commits
    assert commits["v1.0"] == [contents(folder)] * 2
    assert len(commits["main"]) == 2


def test_only_what_was_asked_to_be_private_is(outcome: tuple[Hub, str, Answers]) -> None:
    hub, _, answers = outcome
    assert {name: repository.private for name, repository in hub.repositories.items()} == {
        **{f"{OWNER}/{name}": False for name in ("model", "bare", "bad", "e", "kept")},
        f"{OWNER}/secret": True,
    }
    assert len(hub.repositories[f"{OWNER}/secret"].commits["main"]) == 2
    assert answers["public asked private"] == (
        f"TrelmError: --push {OWNER}/model: expected a private repository, found a public one; make it private on the "
        "Hub, or give another name"
    )


@pytest.mark.parametrize(
    ("request_name", "message"),
    [
        (
            "unknown token",
            f"{OWNER}/x: expected a valid token of the Hub, found one that it does not know; log in with "
            "`hf auth login`, or set HF_TOKEN",
        ),
        (
            "reading token",
            f"{OWNER}/x: expected the right to write there, found that the token has none; give your own name or "
            "organisation as the repository's owner, and a token of kind `write`",
        ),
        (
            "another's name",
            "another/x: expected the right to write there, found that the token has none; give your own name or "
            "organisation as the repository's owner, and a token of kind `write`",
        ),
        ("refused", f"{OWNER}/x: expected to reach the Hub, found none ("),
        ("no name", "a/b/c: the Hub would not take it (Repo id must be in the form"),
        (
            "bad card",
            f'{OWNER}/bad: the Hub would not take it (Invalid metadata in README.md. - "language" must only contain '
            "lowercase characters); mend what it names",
        ),
    ],
)
def test_what_goes_wrong_is_said_in_one_line(
    outcome: tuple[Hub, str, Answers], request_name: str, message: str
) -> None:
    said = outcome[2][request_name]
    assert said.startswith(f"TrelmError: --push {message}")
    assert "\n" not in said
    assert "hf_" not in said.replace("hf auth", "")


def test_nothing_is_asked_of_the_hub_without_a_token(outcome: tuple[Hub, str, Answers]) -> None:
    requests = outcome[0].requests
    assert requests
    assert all(token for _, path, token in requests if not path.startswith("/large/"))
    assert all(token is None for _, path, token in requests if path.startswith("/large/"))


def test_the_samples_are_the_beginnings_of_the_files(outcome: tuple[Hub, str, Answers], folder: Path) -> None:
    assert outcome[0].samples["model.safetensors"] == (folder / "model.safetensors").read_bytes()[:512]


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"expected a model folder with a config\.json, found none; export first$"):
        push(tmp_path, f"{OWNER}/x", token=TOKEN)


def test_offline_the_variable_is_named(folder: Path) -> None:
    with pytest.raises(
        TrelmError, match=rf"^--push {OWNER}/x: expected to reach the Hub, found HF_HUB_OFFLINE set; unset it$"
    ):
        push(folder, f"{OWNER}/x", token=TOKEN)


def test_bookkeeping_of_git_and_of_the_client_stays_here(outcome: tuple[Hub, str, Answers]) -> None:
    (first,) = outcome[0].repositories[f"{OWNER}/kept"].commits["main"]
    assert set(first) == {"config.json", "sub/kept.txt"}


def test_without_a_token_nothing_is_sent(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trelm.export.hub.get_token", lambda: None)
    words = f"^--push {OWNER}/x: expected a token of the Hub, found none; log in with `hf auth login`, or set HF_TOKEN$"
    with pytest.raises(TrelmError, match=words):
        push(folder, f"{OWNER}/x")
