"""Log-probabilities of targets: each tile is encoded once, the whole vocabulary is never there for all tokens."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from internvl.errors import PlaceholderMismatch
from internvl.models.attention import Packing
from internvl.models.chat import ChatModel
from tests.models.tiny import IMAGE, TEXTS, chat_model, random_ids

LOGPROBS = 1e-6
"""Relative to the largest. Worst seen: 2.2e-7."""
GRADIENTS = 2e-5
"""Relative to the largest gradient of a parameter, or to a millionth of all. Worst seen: 2.9e-6."""


def pixels(tiles: int) -> Tensor:
    return torch.randn(tiles, 3, 56, 56, generator=torch.Generator().manual_seed(tiles))


def rows(*tiles: int, length: int = 9) -> Tensor:
    """Rows of ids with so many tiles each, of one length."""
    ids = random_ids(len(tiles), length + 4 * max(tiles))
    for row, count in zip(ids, tiles, strict=True):
        row[1 : 1 + 4 * count] = IMAGE
    return ids


def learnt(ids: Tensor) -> Tensor:
    return ids.masked_fill(ids == IMAGE, -100)


def gradients(model: nn.Module, logprobs: Tensor) -> dict[str, Tensor | None]:
    model.zero_grad(set_to_none=True)
    weights = torch.linspace(0.5, 2, logprobs.numel()).view_as(logprobs)  # each token matters in its own way
    (logprobs * weights).sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def far(ours: dict[str, Tensor | None], theirs: dict[str, Tensor | None]) -> float:
    """The worst difference of any gradient, relative to its largest value."""
    assert {name for name, grad in ours.items() if grad is None} == {n for n, grad in theirs.items() if grad is None}
    least = 1e-6 * max(float(grad.abs().max()) for grad in theirs.values() if grad is not None)
    return max(
        float((ours[name] - grad).abs().max() / max(float(grad.abs().max()), least))
        for name, grad in theirs.items()
        if grad is not None
    )


# ---- tiles -----------------------------------------------------------------------------------------------------------


def test_a_tile_that_is_seen_twice_is_encoded_once(monkeypatch):
    model, ids, tiles = chat_model(), rows(2, 2, 1, 1), pixels(3)
    order = torch.tensor([0, 1, 0, 1, 2, 2])
    apart = model.token_logprobs(ids, learnt(ids), tiles[order])
    wanted = gradients(model, apart)
    encoded: list[int] = []
    plain = model.vision_model.forward
    monkeypatch.setattr(
        model.vision_model, "forward", lambda x, **given: (encoded.append(len(x)), plain(x, **given))[1]
    )
    together = model.token_logprobs(ids, learnt(ids), tiles, tile_order=order)
    assert encoded == [3]
    assert (together - apart).abs().max() < LOGPROBS * apart.abs().max()
    assert far(gradients(model, together), wanted) < GRADIENTS


def test_tiles_in_another_order():
    model, ids, tiles = chat_model(), rows(1, 1), pixels(2)
    swapped = model.token_logprobs(ids, learnt(ids), tiles, tile_order=torch.tensor([1, 0]))
    assert torch.allclose(swapped, model.token_logprobs(ids, learnt(ids), tiles.flip(0)), atol=1e-5)
    assert not torch.allclose(swapped, model.token_logprobs(ids, learnt(ids), tiles), atol=1e-2)


@pytest.mark.parametrize("order", [[0], [0, 1, 1, 0], [0, 2], [0, 0], [-1, 0]])
def test_an_order_that_does_not_fit_is_refused_before_the_tower_runs(order, monkeypatch):
    model, ids = chat_model(), rows(1, 1)
    monkeypatch.setattr(model, "image_features", lambda _: pytest.fail("the tower ran"))
    with pytest.raises(PlaceholderMismatch, match=r"slots|tile_order"):
        model.token_logprobs(ids, learnt(ids), pixels(2), tile_order=torch.tensor(order))


def test_a_model_that_always_looks_says_the_same_of_text():
    model, ids = chat_model(), random_ids(2, 9)
    plain, plain_logits = model.token_logprobs(ids, ids), model(ids)
    before = gradients(model, plain)
    model.always_look = True
    assert torch.equal(model(ids, torch.zeros(0, 3, 56, 56)), plain_logits)
    looking = model.token_logprobs(ids, ids, torch.zeros(0, 3, 56, 56))
    assert torch.equal(looking, plain)
    for name, grad in gradients(model, looking).items():
        assert grad is not None, name
        if name.startswith(("vision_model.", "mlp1.")):
            assert before[name] is None
            assert not grad.any()
        else:
            assert torch.equal(grad, before[name])


@pytest.mark.parametrize("look", [False, True])
def test_without_a_target_all_gradients_are_zeros(look):
    model, ids = chat_model("llama"), rows(1, 0)
    model.always_look = look
    none = torch.full_like(ids, -100)
    given = (ids, none, pixels(1)) if not look else (random_ids(2, 9), none[:, :9])
    logprobs = model.token_logprobs(*given)
    assert not logprobs.any()
    for name, grad in gradients(model, logprobs).items():
        assert grad is not None, name
        assert not grad.any(), name


# ---- memory ----------------------------------------------------------------------------------------------------------


class Widest(TorchDispatchMode):
    """The most rows of any tensor whose last dimension is the vocabulary."""

    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.vocab, self.rows = vocab, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor) and tensor.ndim and tensor.shape[-1] == self.vocab:
                self.rows = max(self.rows, tensor.numel() // self.vocab)
        return out


def rows_seen(model: ChatModel, ids: Tensor, chunk: int) -> int:
    # dim 32 is smaller than every chunk here: a weight (dim, vocab), transposed, does not count as logits of tokens
    with Widest(model.config.text.vocab) as widest:
        model.token_logprobs(ids, ids, chunk=chunk).sum().backward()
    return widest.rows


@pytest.mark.parametrize("text", ["llama", "qwen2"])
def test_logits_of_all_tokens_never_exist(text):
    model, ids = chat_model(text), random_ids(4, 60)
    assert rows_seen(model, ids, chunk=40) == 40
    assert rows_seen(model, ids, chunk=10_000) == 4 * 59  # a test that would see them


def test_of_the_vocabulary_only_the_last_chunk_waits_for_the_backward_pass():
    model, ids = chat_model("llama"), random_ids(4, 60)
    kept: list[tuple[int, ...]] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (kept.append(tuple(x.shape)), x)[1], lambda x: x):
        model.token_logprobs(ids, ids, chunk=40)
    assert kept
    # 236 targets in chunks of 40: 36 are left for the last, which the backward pass needs first
    rows = {shape[0] for shape in kept if len(shape) == 2 and shape[-1] == model.config.text.vocab}
    assert max(rows - {model.config.text.dim}) == 36  # the head itself has `dim` rows


@pytest.mark.parametrize("text", TEXTS)
def test_chunks_change_nothing(text):
    model, ids = chat_model(text), rows(2, 1, 0)
    given = (ids, learnt(ids), pixels(3))
    whole = model.token_logprobs(*given, chunk=10_000)
    logits = model(ids, pixels(3)).log_softmax(-1)
    plain = logits[:, :-1].gather(-1, ids[:, 1:, None])[..., 0] * (learnt(ids)[:, 1:] != -100)
    wanted = gradients(model, whole)
    assert (whole[:, 1:] - plain).abs().max() < LOGPROBS * whole.abs().max()
    for chunk in (1, 7):
        pieces = model.token_logprobs(*given, chunk=chunk)
        assert (pieces - whole).abs().max() < LOGPROBS * whole.abs().max()
        assert far(gradients(model, pieces), wanted) < GRADIENTS


@pytest.mark.parametrize("text", TEXTS)
def test_packed_padded_and_alone(text):
    """Three samples with pictures of their own: values and gradients."""
    model, tiles = chat_model(text), pixels(3)
    samples = [rows(2)[0], rows(0)[0][:6], rows(1, length=5)[0]]
    shown = [tiles[:2], None, tiles[2:]]
    each = [
        model.token_logprobs(ids[None], learnt(ids)[None], seen)[0] for ids, seen in zip(samples, shown, strict=True)
    ]
    alone = torch.cat(each)
    row = torch.cat(samples)[None]
    packed = model.token_logprobs(row, learnt(row), tiles, packing=Packing(tuple(map(len, samples))))[0]
    padded_ids = nn.utils.rnn.pad_sequence(samples, batch_first=True)
    mask = nn.utils.rnn.pad_sequence([torch.ones_like(ids) for ids in samples], batch_first=True).bool()
    told = model.token_logprobs(padded_ids, learnt(padded_ids).masked_fill(~mask, -100), tiles, attention_mask=mask)
    padded = told[mask]
    wanted = gradients(model, alone)
    for other in (packed, padded):
        assert (other - alone).abs().max() < LOGPROBS * alone.abs().max()
        assert far(gradients(model, other), wanted) < GRADIENTS
