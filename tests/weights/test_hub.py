"""Names to folders, and downloads that are pretended: no test reaches the network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from internvl.errors import CheckpointError, NoSuchName, UsageError
from internvl.weights import hub
from internvl.weights.hub import needed, resolve
from internvl.weights.load import convert, load, load_encoder, load_tokenizer
from tests.weights.folders import checkpoint, tiny

REPOSITORY = [
    ".gitattributes", "README.md", "LICENSE", "config.json", "generation_config.json", "tokenizer.model", "vocab.json",
    "merges.txt", "chat_template.jinja", "modeling_internvl_chat.py", "conversation.py", "examples/image1.jpg",
    "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json",
    "pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json", "training_args.bin", "runs/events.json",
]  # fmt: skip


class Pretended:
    """A hub that has one repository and notes what it is asked for."""

    def __init__(self, folder: Path, fails: Exception | None = None, cached: bool = True) -> None:
        self.folder, self.fails, self.cached = folder, fails, cached
        self.calls: list[dict[str, object]] = []

    def model_info(self, repo: str, *, revision: str | None = None) -> SimpleNamespace:
        self.calls.append({"repo": repo, "revision": revision})
        if self.fails:
            raise self.fails
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in REPOSITORY])

    def snapshot_download(self, repo: str, **options: object) -> str:
        self.calls.append({"repo": repo, **options})
        if options.get("local_files_only") and not self.cached:
            raise LocalEntryNotFoundError("nothing here")
        return str(self.folder)


@pytest.fixture
def pretend(monkeypatch, tmp_path):
    def put(fails: Exception | None = None, *, cached: bool = True) -> Pretended:
        there = Pretended(tmp_path, fails, cached)
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda token=None: there)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", there.snapshot_download)
        return there

    return put


def test_only_what_a_model_needs():
    wanted = needed(REPOSITORY)
    assert "modeling_internvl_chat.py" not in wanted
    assert not [name for name in wanted if name.endswith((".py", ".jpg")) or name.startswith(("runs/", "."))]
    assert {"config.json", "tokenizer.model", "chat_template.jinja", "model.safetensors.index.json"} <= set(wanted)
    assert [name for name in wanted if name.endswith((".safetensors", ".bin"))] == REPOSITORY[12:14]
    assert "pytorch_model.bin.index.json" not in wanted
    assert "training_args.bin" not in wanted


def test_pickles_where_there_is_nothing_else():
    wanted = needed([name for name in REPOSITORY if "safetensors" not in name])
    assert {"pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"} <= set(wanted)


def test_a_hub_id_is_downloaded(pretend, tmp_path):
    there = pretend()
    assert resolve("someone/their-model", revision="abc", token="secret") == tmp_path
    assert there.calls[0] == {"repo": "someone/their-model", "revision": "abc"}
    assert there.calls[1]["revision"] == "abc"
    assert there.calls[1]["token"] == "secret"
    assert "conversation.py" not in there.calls[1]["allow_patterns"]


def test_zoo_names_and_endings(pretend):
    there = pretend()
    resolve("internvl2.5-8b")
    resolve("InternVL2_5-8B")
    assert {call["repo"] for call in there.calls} == {"OpenGVLab/InternVL2_5-8B"}


def test_one_file_of_a_repository(pretend, tmp_path):
    there = pretend()
    assert resolve("intern_vit_6b_224px") == tmp_path / "intern_vit_6b_224px.pth"
    assert there.calls[1]["allow_patterns"] == ["intern_vit_6b_224px.pth"]


def test_folders_come_first(pretend, tmp_path, monkeypatch):
    there = pretend(fails=OSError("no network"))
    (tmp_path / "InternVL2_5-8B").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve("InternVL2_5-8B") == Path("InternVL2_5-8B")
    assert there.calls == []


def test_the_embedded_model_has_a_name(pretend, tmp_path, monkeypatch):
    there = pretend(fails=OSError("no network"))
    monkeypatch.setattr(hub, "NANO", tmp_path)
    assert resolve("nano") == resolve() == tmp_path
    with pytest.raises(UsageError, match="revision given with the embedded model"):
        resolve("nano", revision="abc")
    (tmp_path / "nano").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve("nano") == Path("nano")
    assert there.calls == []


def test_a_run_is_its_model(tmp_path):
    """Its result, else its newest checkpoint by number; a folder that has a model of its own never is another's."""
    run = tmp_path / "run"
    for step in ("step-999900", "step-1000200", "step-1000300.tmp"):
        (run / step / "model").mkdir(parents=True)
        (run / step / "model" / "config.json").write_text("{}")
    assert resolve(run) == run / "step-1000200" / "model"
    assert resolve(run / "step-999900") == run / "step-999900" / "model"
    (run / "model").mkdir()
    assert resolve(run) == run / "step-1000200" / "model"  # nothing in it yet
    (run / "model" / "config.json").write_text("{}")
    assert resolve(str(run)) == run / "model"
    assert resolve(run / "model") == run / "model"
    for own in ("config.json", "model.safetensors", "pytorch_model.bin", "tower.pth"):
        (run / own).write_text("{}")
        assert resolve(run) == run
        (run / own).unlink()


def test_a_run_loads_like_any_model(tmp_path):
    shutil.copytree(checkpoint("qwen2-v2_5-bf16"), tmp_path / "run" / "model")
    model = load(tmp_path / "run", device="cpu")
    assert load_encoder(tmp_path / "run").config == load_encoder(tmp_path / "run" / "model").config
    assert model.state_dict().keys() == load(tmp_path / "run" / "model", device="cpu").state_dict().keys()


def test_a_wrong_name_gets_the_nearest(pretend):
    pretend()
    with pytest.raises(NoSuchName, match=r"Did you mean 'internvl2\.5-8b'.*no file or folder"):
        resolve("internvl2.5-8c")
    for wrong in ("./missing", "a/b/c", "/nowhere/at-all", ""):
        with pytest.raises(NoSuchName):
            resolve(wrong)


def test_without_a_network_the_cache_answers(pretend, tmp_path):
    there = pretend(fails=ConnectionError("Temporary failure in name resolution"))
    with pytest.warns(UserWarning, match=r"could not be reached.*is used"):
        assert resolve("someone/their-model") == tmp_path
    assert there.calls[-1]["local_files_only"] is True


def test_whoever_chose_to_be_offline_is_not_warned(pretend, tmp_path, recwarn):
    pretend(fails=OfflineModeIsEnabled("HF_HUB_OFFLINE"))
    assert resolve("someone/their-model") == tmp_path
    assert not recwarn.list


def test_a_full_disk_is_no_missing_network(pretend):
    there = pretend(fails=OSError(28, "No space left on device"))
    with pytest.raises(CheckpointError, match=r"could not be stored.*No space left"):
        resolve("someone/their-model")
    assert len(there.calls) == 1


def test_a_fault_of_ours_is_no_missing_network(pretend):
    pretend(fails=AssertionError("a fault"))
    with pytest.raises(AssertionError, match="a fault"):
        resolve("someone/their-model")


def test_only_models_of_the_hub_have_revisions(pretend, tmp_path, monkeypatch):
    pretend()
    monkeypatch.setattr(hub, "NANO", tmp_path)
    for source in (tmp_path, None):
        with pytest.raises(UsageError, match="revision given with"):
            resolve(source, revision="v2")
        with pytest.raises(UsageError, match="token given with"):
            load_tokenizer(source, token="secret")
    with pytest.raises(UsageError, match="revision and token given with"):
        convert(tmp_path, tmp_path / "y", format="hf", revision="v2", token="secret")


def test_a_tokenizer_needs_no_weights(pretend, tmp_path):
    there = pretend()
    resolve("someone/their-model", weights=False)
    assert not [name for name in there.calls[1]["allow_patterns"] if name.endswith((".safetensors", ".bin"))]
    assert "tokenizer.model" in there.calls[1]["allow_patterns"]


def test_plain_internvl_c_has_the_tokenizer_of_another(pretend, tmp_path):
    there = pretend()
    assert resolve("internvl_c_13b_224px", weights=False) == tmp_path
    assert {call["repo"] for call in there.calls} == {"OpenGVLab/InternVL-14B-224px"}
    (tmp_path / "lone").mkdir()
    (tmp_path / "lone" / "internvl_c_13b_224px.pth").write_bytes(b"")
    for file in checkpoint("internvl-14b").glob("*token*"):
        shutil.copy(file, tmp_path)
    assert load_tokenizer(tmp_path / "lone" / "internvl_c_13b_224px.pth").vocab_size
    (tmp_path / "tokenizer.model").unlink()
    (tmp_path / "x.pth").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no tokenizer beside it.*InternVL-14B-224px"):
        load_tokenizer(tmp_path / "x.pth")


def test_without_a_network_and_a_cache(pretend):
    pretend(fails=ConnectionError("Temporary failure in name resolution\nmore"), cached=False)
    with pytest.raises(
        CheckpointError, match=r"could not be reached \(Temporary failure in name resolution\)"
    ) as caught:
        resolve("someone/their-model")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (RepositoryNotFoundError, NoSuchName, "not on the Hugging Face hub, or it is private"),
        (GatedRepoError, CheckpointError, "accept terms"),
        (RevisionNotFoundError, NoSuchName, "no revision 'v9'"),
    ],
)
def test_refusals_of_the_hub(error, kind, says, pretend):
    refusal = error.__new__(error)  # what else they are made of depends on the release
    refusal.args = ("many\nlines",)
    pretend(fails=refusal, cached=False)
    with pytest.raises(kind, match=says) as caught:
        resolve("someone/their-model", revision="v9")
    assert "\n" not in str(caught.value)


def test_offline_for_real(tmp_path):
    """The hub's own library, told that there is no network."""
    code = "from internvl.weights.load import load; load('someone/their-model')"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert "internvl.errors.CheckpointError: someone/their-model is not on this machine" in done.stderr


def test_the_embedded_model(monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "NANO", tmp_path / "checkpoint")
    with pytest.raises(CheckpointError, match="no embedded model"):
        resolve()
    tiny(tmp_path / "checkpoint")
    assert resolve() == tmp_path / "checkpoint"
