"""What is saved comes back bit for bit, and a save that fails or is killed loses nothing."""

import json
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import internvl
from internvl.errors import CheckpointError, DamagedFile, KeyMismatch, UsageError
from internvl.models.chat import ChatModel
from internvl.models.quantized import QuantizedLinear
from internvl.training.checkpoint import Saver, best, latest, restore, steps
from internvl.training.parallel import rng_state, set_rng_state
from internvl.weights import adapters
from tests.conftest import REPOSITORY, golden
from tests.training.steps import optimizer_of, tiny, train


def saved(folder: Path, step: int, model, optimizer, **state) -> Path:
    saver = Saver(folder, keep=3)
    saver.save(step, model, optimizer, {"step": step, **state}, wait=True)
    found = latest(folder)
    assert found is not None
    return found


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("rank", [0, 4], ids=["all", "adapters"])
def test_resumed_is_uninterrupted_bit_for_bit(tmp_path, dtype, rank):
    """With drop path and dropout, whose random numbers must go on too."""
    torch.manual_seed(1)
    model = tiny(rank=rank, drop=0.3)
    optimizer = optimizer_of(model)
    train(model, optimizer, dtype=dtype)
    path = saved(tmp_path, 3, model, optimizer, delta=0.25)
    went_on = train(model, optimizer, dtype=dtype)

    torch.manual_seed(2)
    other = tiny(rank=rank, drop=0.3, seed=7)
    fresh = optimizer_of(other)
    assert restore(path, other, fresh) == {"step": 3, "delta": 0.25}
    resumed = train(other, fresh, dtype=dtype)
    assert resumed.losses == went_on.losses
    assert resumed.norms == went_on.norms
    assert equal(resumed.weights, went_on.weights)
    assert equal(_moments(other, fresh), _moments(model, optimizer))


def _moments(model, optimizer) -> dict:
    names = {p: name for name, p in model.named_parameters()}
    return {f"{kind}/{names[p]}": t for p, kinds in optimizer.state.items() for kind, t in kinds.items()}


def test_random_numbers_go_on():
    torch.manual_seed(3)
    state = json.loads(json.dumps(rng_state()))
    drawn = torch.rand(5)
    set_rng_state(state)
    assert torch.equal(torch.rand(5), drawn)


@pytest.mark.parametrize(
    "name", ["internlm2-v2_5", "internlm2-lora", "qwen2-v2_5-bf16", "internvl-14b", "internvit-300m"]
)
def test_the_model_is_an_ordinary_checkpoint(tmp_path, name):
    """It keeps its tokenizer, and whoever loads it has the very weights that were learnt, in fp32."""
    model = internvl.load(golden(f"checkpoints/{name}"), dtype="float32")
    for name_, parameter in model.named_parameters():
        if ".lora_A." not in name_:  # layers that a layout stores as one share their A
            parameter.data += torch.randn(parameter.shape) * 1e-3  # 16 bit could not hold this
    path = saved(tmp_path, 1, model, optimizer_of(model))
    again = internvl.load(path / "model", dtype="float32")
    assert equal(dict(model.state_dict()), dict(again.state_dict()))
    before = {p.name for p in golden(f"checkpoints/{name}").iterdir()}
    assert before <= {p.name for p in (path / "model").iterdir()}


def test_frozen_weights_keep_their_type(tmp_path):
    """A bf16 language model under a learning fp32 projector is neither widened nor rounded."""
    model = internvl.load(golden("checkpoints/qwen2-v2_5-bf16"), dtype="bfloat16")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("mlp1."))
    model.mlp1.float()
    optimizer = optimizer_of(model)
    path = saved(tmp_path, 1, model, optimizer)
    with safe_open(path / "model" / "model.safetensors", "pt") as file:
        assert file.get_tensor("language_model.model.norm.weight").dtype == torch.bfloat16
        assert file.get_tensor("mlp1.1.weight").dtype == torch.float32
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for parameter in model.parameters():
        parameter.data.zero_()
    restore(path, model, optimizer)
    assert equal(before, dict(model.state_dict()))


@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_quantised_layers_under_adapters(tmp_path, bits):
    """A checkpoint like any other, of what they stand for; restored, they hold the same codes."""

    def quantised(seed: int) -> ChatModel:
        model = tiny(rank=4, seed=seed)
        for layer in adapters.adapted(model).values():
            layer.base_layer = QuantizedLinear(layer.base_layer, bits)
        return model

    model, other = quantised(0), quantised(3)
    optimizer, fresh = optimizer_of(model), optimizer_of(other)
    train(model, optimizer)
    path = saved(tmp_path, 3, model, optimizer)
    plain = internvl.load(path / "model", dtype="float32")
    assert equal(dict(model.state_dict()), dict(plain.state_dict()))
    restore(path, other, fresh)
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), other.buffers(), strict=True))
    again = train(other, fresh)
    went_on = train(model, optimizer)
    assert again.losses == went_on.losses
    assert equal(again.weights, went_on.weights)


def test_adapters_with_another_scale_come_back_exactly(tmp_path):
    """The published layout may fold their scale into B; that loses bits, and `optim/` does not."""
    model = tiny(rank=4)
    for layer in adapters.adapted(model).values():
        layer.scale = 1.0 / 3
    next(iter(adapters.adapted(model).values())).scale = 0.7
    path = saved(tmp_path, 1, model, optimizer_of(model))
    other = tiny(rank=4, seed=5)
    restore(path, other, optimizer_of(other))
    assert equal(dict(model.state_dict()), dict(other.state_dict()))


def test_what_is_kept(tmp_path):
    model = tiny()
    optimizer = optimizer_of(model)
    saver = Saver(tmp_path, keep=2)
    for step in (1, 2, 3, 4, 5):
        saver.save(step, model, optimizer, {})
        if step == 2:
            saver.mark_best(step)
    saver.wait()
    assert [path.name for path in steps(tmp_path)] == ["step-000002", "step-000004", "step-000005"]
    assert best(tmp_path) == tmp_path / "step-000002"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.json", "step-000002", "step-000004", "step-000005"]
    saver.mark_best(5)
    saver.save(6, model, optimizer, {}, wait=True)
    assert [path.name for path in steps(tmp_path)] == ["step-000005", "step-000006"]
    with pytest.raises(UsageError, match="step 2 has no checkpoint"):
        saver.mark_best(2)


def test_a_step_is_saved_once_and_a_newer_run_replaces_it(tmp_path):
    model = tiny()
    optimizer = optimizer_of(model)
    saver = Saver(tmp_path, keep=2)
    saver.save(1, model, optimizer, {"by": "first"}, wait=True)
    saver.save(1, model, optimizer, {"by": "second"}, wait=True)
    assert restore(tmp_path / "step-000001", model, optimizer) == {"by": "first"}
    assert restore(saved(tmp_path, 1, model, optimizer, by="third"), model, optimizer) == {"step": 1, "by": "third"}
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]


def test_what_is_saved_is_the_moment_of_saving(tmp_path, monkeypatch):
    """Training goes on while the other thread has not even begun to write."""
    import threading

    go_on = threading.Event()
    model = tiny()
    optimizer = optimizer_of(model)
    train(model, optimizer)
    then = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    moments = {name: tensor.clone() for name, tensor in _moments(model, optimizer).items()}
    saver = Saver(tmp_path, keep=2)
    write = saver._write
    monkeypatch.setattr(saver, "_write", lambda snapshot: (go_on.wait(60), write(snapshot)))
    saver.save(3, model, optimizer, {})
    train(model, optimizer)
    assert latest(tmp_path) is None
    go_on.set()
    saver.wait()
    other = tiny(seed=5)
    fresh = optimizer_of(other)
    restore(tmp_path / "step-000003", other, fresh)
    assert equal(then, dict(other.state_dict()))
    assert equal(moments, _moments(other, fresh))


@contextmanager
def small_files(most: int):
    """The system refuses files above so many bytes, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_one_clear_error_and_loses_nothing(tmp_path):
    model = tiny()
    optimizer = optimizer_of(model)
    saver = Saver(tmp_path, keep=1)
    saver.save(1, model, optimizer, {"good": True}, wait=True)
    with small_files(10_000):
        saver.save(2, model, optimizer, {})
        saver._thread.join()
    with pytest.raises(CheckpointError, match=r"step 2 was not saved: .*File too large.*start the same command again"):
        saver.save(3, model, optimizer, {})
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]
    saver.save(3, model, optimizer, {"good": True}, wait=True)  # the error was told, and is over
    assert restore(tmp_path / "step-000003", model, optimizer) == {"good": True}


def test_unfinished_folders_are_ignored_and_swept(tmp_path):
    model = tiny()
    path = saved(tmp_path, 1, model, optimizer_of(model))
    shutil.copytree(path, tmp_path / "step-000009.tmp")
    assert latest(tmp_path) == path
    assert saved(tmp_path, 2, model, optimizer_of(model)).name == "step-000002"
    assert not (tmp_path / "step-000009.tmp").exists()


def test_what_does_not_fit_is_named(tmp_path):
    model = tiny()
    optimizer = optimizer_of(model)
    path = saved(tmp_path, 1, model, optimizer)
    frozen = tiny()
    frozen.mlp1.requires_grad_(False)
    with pytest.raises(KeyMismatch, match=r"learnt mlp1\.0\.bias.*does not learn now"):
        restore(path, frozen, optimizer_of(frozen))
    path = saved(tmp_path / "frozen", 1, frozen, optimizer_of(frozen))
    with pytest.raises(KeyMismatch, match=r"did not learn mlp1\.0\.bias.*which learns now"):
        restore(path, model, optimizer)
    other = tiny("llama")
    other.requires_grad_(False)
    other.mlp1.requires_grad_(True)
    path = saved(tmp_path / "other", 1, other, optimizer_of(other))
    tied = tiny("qwen2")
    tied.requires_grad_(False)
    tied.mlp1.requires_grad_(True)
    with pytest.raises(KeyMismatch, match=r"lm_head\.weight is not in the model"):
        restore(path, tied, optimizer_of(tied))
    (path / "state.json").write_text("{}")
    with pytest.raises(DamagedFile, match=r"state\.json"):
        restore(path, other, optimizer_of(other))


def test_a_lost_or_cut_file_is_named(tmp_path):
    model = tiny()
    optimizer = optimizer_of(model)
    train(model, optimizer, steps=(0,))
    path = saved(tmp_path, 1, model, optimizer)
    [own] = (path / "optim").iterdir()
    own.write_bytes(own.read_bytes()[:-100])
    with pytest.raises(DamagedFile, match="rank-00000-of-00001"):
        restore(path, model, optimizer)


@pytest.mark.slow
def test_killed_while_saving_twenty_times(tmp_path):
    """kill -9 at random moments: the last checkpoint that was said to be whole, or a newer one, is always there."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.killed", tmp_path, "20"],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["kills"] == 20
    assert told["unfinished"] > 0  # some of them did hit a save
