"""The image encoder: recorded outputs, the folded padding against a plain window, and bad checkpoints."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from golden_inputs import fill, golden, volume
from semisam_o1.core.errors import InputError
from semisam_o1.features.sam_med3d import PREFIX, Attention, ImageEncoder, load_encoder


@pytest.mark.parametrize("side", [64, 128])
def test_small_encoder_matches_the_recorded_features(side: int) -> None:
    encoder = fill(ImageEncoder(side, dim=48, depth=3, heads=4, out_channels=24, global_blocks=(1,))).eval()
    with torch.no_grad():
        features = encoder(volume((2, 1, side, side, side), 11))
    recorded = torch.from_numpy(golden("encoder_small.npz")[f"small_{side}"])
    torch.testing.assert_close(features, recorded, atol=1e-5, rtol=0)


def test_full_encoder_matches_the_recorded_features(filled_checkpoint: Path) -> None:
    encoder = load_encoder(filled_checkpoint)
    assert not encoder.training
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    with torch.no_grad():
        (features,) = encoder(volume((1, 1, 128, 128, 128), 7))
    recorded = torch.from_numpy(golden("encoder_full.npz")["features"])
    torch.testing.assert_close(features, recorded, atol=1e-4, rtol=0)


def plain_attention(attention: Attention, x: Tensor) -> Tensor:
    """Section 1 of the method word for word: pad with zeros, attend to every token of the window."""
    n, s, heads, c = attention.side, attention.window, attention.heads, attention.head_dim
    x = F.pad(x, (0, 0, 0, s - n, 0, s - n, 0, s - n))
    q, k, v = attention.qkv(x).reshape(-1, s, s, s, 3, heads, c).unbind(4)  # (B, s, s, s, heads, c)
    place = torch.arange(s)
    out = torch.zeros(x.shape[0], n, n, n, heads, c, dtype=x.dtype)
    for d in range(n):
        for h in range(n):
            r_d = attention.rel_pos_d[d - place + s - 1]  # (w', c)
            r_h = attention.rel_pos_h[h - place + s - 1]  # (w', c)
            r_w = attention.rel_pos_w[place[:, None] - place + s - 1]  # (h', w', c)
            second = torch.einsum("bimc,kc->bmik", q[:, d, h], r_h)  # (B, heads, d', w')
            third = torch.einsum("bimc,ikc->bmik", q[:, d, h], r_w)  # (B, heads, h', w')
            for w in range(n):
                query = q[:, d, h, w]  # (B, heads, c)
                logit = c**-0.5 * torch.einsum("bmc,bxyzmc->bmxyz", query, k)
                logit = logit + torch.einsum("bmc,kc->bmk", query, r_d)[:, :, None, None, :]
                logit = logit + second[:, :, :, None, :] + third[:, :, None, :, :]
                weight = logit.flatten(2).softmax(2).reshape(logit.shape)
                out[:, d, h, w] = torch.einsum("bmxyz,bxyzmc->bmc", weight, v)
    return attention.proj(out.flatten(4))


@pytest.mark.parametrize(("side", "window"), [(8, 14), (3, 5), (1, 4), (4, 4)])
def test_folded_padding_equals_the_plain_window(side: int, window: int) -> None:
    attention = Attention(dim=4, heads=2, side=side, window=window).double()
    with torch.no_grad():
        for seed, parameter in enumerate(attention.parameters()):
            parameter.copy_(volume(parameter.shape, seed))
        x = volume((1, side, side, side, 4), 99).double()
        torch.testing.assert_close(attention(x), plain_attention(attention, x), atol=1e-10, rtol=1e-10)


def test_encoder_of_an_impossible_side_is_refused() -> None:
    for side in (100, 240):
        with pytest.raises(ValueError, match=str(side)):
            ImageEncoder(side, dim=12, depth=1, heads=3)


def cheap_model(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Every key of the released checkpoint with its shape and a number of its own, stored once."""
    names = golden("sam_med3d_state_dict.json").items()
    return {key: torch.tensor(i, dtype=dtype).expand(shape) for i, (key, shape) in enumerate(names)}


@pytest.mark.parametrize("form", ["whole", "bare", "encoder only", "half precision"])
def test_every_form_of_checkpoint_loads(form: str, tmp_path: Path) -> None:
    model = cheap_model(torch.float16 if form == "half precision" else torch.float32)
    encoder = {key.removeprefix(PREFIX): value for key, value in model.items() if key.startswith(PREFIX)}
    content = {"whole": {"model_state_dict": model, "epoch": 3}, "encoder only": encoder}.get(form, model)
    torch.save(content, tmp_path / "sam.pth")
    loaded = load_encoder(tmp_path / "sam.pth").state_dict()
    assert loaded.keys() == encoder.keys()
    for key, value in loaded.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, encoder[key].float())


def test_missing_and_misshapen_keys_are_named(tmp_path: Path) -> None:
    model = cheap_model()
    del model["image_encoder.blocks.3.norm1.bias"]
    model["image_encoder.pos_embed"] = torch.zeros(1, 4, 4, 4, 768)
    torch.save({"model_state_dict": model}, tmp_path / "other.pth")
    with pytest.raises(InputError) as error:
        load_encoder(tmp_path / "other.pth")
    message = str(error.value)
    assert "other.pth" in message
    assert "blocks.3.norm1.bias" in message
    assert "pos_embed is (1, 4, 4, 4, 768) and should be (1, 8, 8, 8, 768)" in message


def test_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.pth is missing; download"):
        load_encoder(tmp_path / "absent.pth")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off", b"<html>404</html>"])
def test_garbage_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "garbage.pth"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"garbage\.pth"):
        load_encoder(path)


def test_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.pth"
    torch.save({"model_state_dict": cheap_model()}, path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(InputError, match=r"cut\.pth"):
        load_encoder(path)


def test_something_else_is_refused(tmp_path: Path) -> None:
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    with pytest.raises(InputError, match="not a state dict"):
        load_encoder(tmp_path / "tensor.pth")


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, 2))])
def test_code_in_a_checkpoint_is_not_run(save, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    content = {"model_state_dict": cheap_model(), "extra": Payload(marker)}
    save(content, tmp_path / "evil.pth")
    with pytest.raises(InputError, match=r"evil\.pth"):
        load_encoder(tmp_path / "evil.pth")
    assert not marker.exists()
    pickle.loads(pickle.dumps(Payload(marker)))
    assert marker.exists(), "the payload works where unpickling is not restricted"
