import pickle
import urllib.error

import pytest
import torch

from common import models
from common.cli import UserError
from common.models import Checkpoint, build_model, digest_tensors, load_strictly
from common.taxonomy import BIODIVERSITY, IGNORE_INDEX


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return build_model("unet", "mobilenet_v2", 6)


def test_void_is_never_predicted_and_its_output_is_not_trained(small):
    logits = small.train()(torch.randn(2, 3, 32, 32))
    assert not (logits.argmax(dim=1) == IGNORE_INDEX).any()
    assert not logits.softmax(dim=1)[:, IGNORE_INDEX].any()
    logits.sum().backward()
    head = small.segmentation_head[0][0].weight.grad
    assert not head[IGNORE_INDEX].any() and head[1:].any()


def test_one_seed_gives_one_network():
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(digest_tensors(build_model("unet", "mobilenet_v2", 6).state_dict()))
    assert states[0] == states[1] != states[2]


def test_imagenet_weights_that_cannot_be_downloaded_are_told_with_both_ways_out(monkeypatch):
    def offline(*args, **kwargs):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(models.smp, "create_model", offline)
    with pytest.raises(UserError, match="--encoder-weights none") as error:
        build_model("unet", "resnet18", 6, "imagenet")
    assert "--encoder-weights FILE" in str(error.value) and "resnet18" in str(error.value)


def test_encoder_weights_from_a_file_are_all_loaded(small, tmp_path):
    torch.save(small.encoder.state_dict(), tmp_path / "encoder.pt")
    torch.manual_seed(5)
    loaded = build_model("unet", "mobilenet_v2", 6, str(tmp_path / "encoder.pt"))
    assert digest_tensors(loaded.encoder.state_dict()) == digest_tensors(small.encoder.state_dict())
    assert digest_tensors(loaded.decoder.state_dict()) != digest_tensors(small.decoder.state_dict())


@pytest.mark.parametrize(
    ("arch", "encoder", "said"), [("unett", "resnet18", "unett"), ("unet", "resnet1", "resnet1"), ("unet", "", "")]
)
def test_an_unknown_network_is_refused_by_name(arch, encoder, said):
    with pytest.raises(UserError, match=f"--arch.*{said}"):
        build_model(arch, encoder, 6)


def test_weights_of_another_network_are_refused_with_the_first_tensor_that_differs(small):
    state = small.state_dict()
    with pytest.raises(UserError, match="1 tensors are missing"):
        load_strictly(small, dict(list(state.items())[1:]), "x.pt")
    with pytest.raises(UserError, match="1 are unknown"):
        load_strictly(small, state | {"extra": torch.zeros(1)}, "x.pt")
    with pytest.raises(UserError, match="another shape"):
        load_strictly(small, state | {"encoder.features.0.0.weight": torch.zeros(1)}, "x.pt")


def checkpoint(path, small, **training):
    metadata = {"stage": "s", "arch": "unet", "encoder": "mobilenet_v2", "taxonomy": BIODIVERSITY.to_json()}
    return Checkpoint(path, small.state_dict(), metadata, training or None)


def test_a_checkpoint_comes_back_as_the_same_network(small, tmp_path):
    checkpoint(tmp_path / "last.pt", small).save()
    found = Checkpoint.load(tmp_path / "last.pt", "remedy")
    assert found.digest == digest_tensors(small.state_dict()) and found.taxonomy == BIODIVERSITY
    assert digest_tensors(found.build().state_dict()) == found.digest


def test_the_digest_of_a_checkpoint_does_not_depend_on_its_name(small, tmp_path):
    for name in ("a.pt", "b.pt"):
        checkpoint(tmp_path / name, small).save()
    assert Checkpoint.load(tmp_path / "a.pt", "").digest == Checkpoint.load(tmp_path / "b.pt", "").digest


def test_a_truncated_checkpoint_is_refused_with_the_remedy(small, tmp_path):
    path = tmp_path / "last.pt"
    checkpoint(path, small).save()
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UserError, match="last.pt.*train again"):
        Checkpoint.load(path, "train again")


def test_a_checkpoint_that_holds_code_is_refused_and_runs_nothing(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    torch.save({"model": Bomb()}, tmp_path / "bomb.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Bomb(), protocol=2))
    for name in ("bomb.pt", "plain.pt"):
        with pytest.raises(UserError, match=name):
            Checkpoint.load(tmp_path / name, "train again")
    assert not (tmp_path / "executed").exists()
