import re
import warnings
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from common.checkpoints import checkpoint_bytes
from common.encoder_files import read_encoder_file
from common.encoders import EncoderConstants
from common.errors import UserError
from common.models import Architecture, build_model
from tests.conftest import ARCH, ENCODER

FIRST = "model.conv1.0.weight"


def encoder_of(name: str, device: str = "cpu") -> nn.Module:
    """An encoder of smp; on ``meta`` it has names and shapes, which are all that is asked of it, but no numbers."""
    with warnings.catch_warnings(action="ignore"), torch.device(device):
        return smp.encoders.get_encoder(name, weights=None)


def filled(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict of the same names and shapes in which all numbers are other ones, and no two tensors alike."""
    numbers = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(t.shape, generator=numbers) if t.is_floating_point() else torch.full(t.shape, 7)
        for name, t in state.items()
    }


@pytest.fixture(scope="module")
def encoder():
    return encoder_of(ENCODER)


@pytest.fixture(scope="module")
def source(encoder):
    """What files hold in these tests: the encoder's tensors by its own names."""
    return filled(encoder.state_dict())


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def assert_same(state: dict, expected: dict) -> None:
    assert state.keys() == expected.keys()
    for name, tensor in state.items():
        assert tensor.dtype == expected[name].dtype and torch.equal(tensor, expected[name]), name


def refusal(path: Path, encoder: nn.Module) -> str:
    with pytest.raises(UserError) as error:
        read_encoder_file(path, encoder)
    assert str(path) in str(error.value) and "\n" not in str(error.value) and "\x1b" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "library", "classifier"),
    [
        ("resnet18", torchvision.models.resnet18, "fc"),
        ("resnext50_32x4d", torchvision.models.resnext50_32x4d, "fc"),
        ("densenet121", torchvision.models.densenet121, "classifier"),
        ("mobilenet_v2", torchvision.models.mobilenet_v2, "classifier"),
        ("timm-tf_efficientnet_lite0", lambda: timm.create_model("tf_efficientnet_lite0"), "classifier"),
    ],
)
def test_files_of_torchvision_and_timm_load_into_the_encoders_of_the_same_names(tmp_path, name, library, classifier):
    with torch.device("meta"):
        network = library()
    state = filled(network.state_dict())
    own = {key: tensor for key, tensor in state.items() if not key.startswith(classifier)}
    loaded, left_out, _ = read_encoder_file(saved(tmp_path / "x.pt", state), encoder_of(name, "meta"))
    assert_same(loaded, own)
    assert left_out == [f"{classifier} ({len(state) - len(own)} tensors)"]


def test_the_classifiers_of_vgg_are_left_out(tmp_path):
    encoder = encoder_of("vgg11", "meta")
    own = filled(encoder.state_dict())
    state = own | {"classifier.0.weight": torch.ones(4, 2), "classifier.6.bias": torch.ones(4)}
    loaded, left_out, _ = read_encoder_file(saved(tmp_path / "x.pt", state), encoder)
    assert_same(loaded, own)
    assert left_out == ["classifier (2 tensors)"]


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050", "convnext_atto"])
def test_a_network_of_timm_computes_the_same_as_an_encoder_with_its_file(tmp_path, name):
    network, encoder = timm.create_model(name).eval(), encoder_of(f"tu-{name}").eval()
    loaded, left_out, _ = read_encoder_file(saved(tmp_path / "x.pt", network.state_dict()), encoder)
    nn.Module.load_state_dict(encoder, loaded)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network.forward_intermediates(image, intermediates_only=True)[-1]
        assert torch.equal(encoder(image)[-1], expected)
    assert left_out


def test_files_of_timm_load_into_encoders_that_take_features_by_hooks(tmp_path):
    with torch.device("meta"):
        network = timm.create_model("legacy_xception")
    encoder, state = encoder_of("tu-legacy_xception", "meta"), filled(network.state_dict())
    assert "model.body.conv1.weight" in encoder.state_dict()
    loaded, left_out, _ = read_encoder_file(saved(tmp_path / "x.pt", state), encoder)
    assert_same(loaded, {f"model.body.{name}": state[name] for name in state if not name.startswith("fc.")})
    assert left_out == ["fc (2 tensors)"]


def test_files_of_densenets_with_the_names_of_old_torchvision_load(tmp_path):
    encoder = encoder_of("densenet121", "meta")
    own = filled(encoder.state_dict())
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", name): own[name] for name in own}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old and not old.keys() == own.keys()
    path = saved(tmp_path / "x.pt", {f"module.{name}": tensor for name, tensor in old.items()})
    assert_same(read_encoder_file(path, encoder)[0], own)
    built = build_model(
        Architecture("unet", "densenet121"), 3, str(path)
    )  # whose own load_state_dict knows no strict=True
    assert_same(dict(built.encoder.state_dict()), own)


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "model.", "encoder.", "model.encoder.", "backbone.", "module.model.encoder.", "_orig_mod."],
)
def test_a_prefix_and_an_entry_around_the_state_dict_make_no_difference(tmp_path, encoder, source, prefix, wrapper):
    for own in (FIRST, FIRST.removeprefix("model.")):  # as smp names it, and as timm does
        state = {prefix + name.removeprefix(FIRST.removesuffix(own)): tensor for name, tensor in source.items()}
        assert prefix + own in state
        path = saved(tmp_path / "x.pt", {wrapper: state, "epoch": 3, "config": {"lr": 0.1}} if wrapper else state)
        loaded, left_out, _ = read_encoder_file(path, encoder)
        assert_same(loaded, source)
        assert left_out == []


def test_files_of_safetensors_load(tmp_path, encoder, source):
    save_file({f"encoder.{name}": tensor for name, tensor in source.items()}, tmp_path / "x.safetensors")
    loaded, left_out, _ = read_encoder_file(tmp_path / "x.safetensors", encoder)
    assert_same(loaded, source)
    assert left_out == []


def test_a_checkpoint_of_lightning_loads_with_plain_entries_beside(tmp_path, encoder, source):
    state = {f"net.encoder.{name}": tensor for name, tensor in source.items()}
    state |= {"net.decoder.a.weight": torch.ones(2), "net.decoder.b": torch.ones(2), "criterion.weight": torch.ones(2)}
    moments = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}
    path = saved(
        tmp_path / "epoch=3.ckpt",
        {"epoch": 3, "state_dict": state, "optimizer_states": [moments], "hyper_parameters": {"lr": 0.1}},
    )
    loaded, left_out, _ = read_encoder_file(path, encoder)
    assert_same(loaded, source)
    assert left_out == ["decoder (2 tensors)", "criterion (1 tensor)"]


def test_of_a_checkpoint_of_this_project_the_encoder_is_taken(tmp_path, encoder):
    network = build_model(Architecture(ARCH, ENCODER), 6)
    raw = {"not_averaged": {name: tensor + 1 for name, tensor in network.state_dict().items()}}
    metadata = {"encoder": ENCODER, "arch": ARCH}
    (tmp_path / "last.pt").write_bytes(checkpoint_bytes(network.state_dict(), metadata, raw))
    loaded, left_out, _ = read_encoder_file(tmp_path / "last.pt", network.encoder)
    assert_same(loaded, dict(network.encoder.state_dict()))
    assert [part.split(" ")[0] for part in left_out] == ["decoder", "segmentation_head"]
    message = refusal(tmp_path / "last.pt", encoder)  # of which the decoder of PSPNet uses only the first stages
    assert "(first: model.layer3.0.conv1.weight; the file has " in message
    assert message.endswith(f"It was made with --arch {ARCH} --encoder {ENCODER}.")


def test_counters_of_batches_may_be_missing(tmp_path, encoder, source):
    old = {name: tensor for name, tensor in source.items() if not name.endswith("num_batches_tracked")}
    loaded, *_ = read_encoder_file(saved(tmp_path / "x.pt", old), encoder)
    zeros = {name: torch.zeros_like(source[name]) for name in source.keys() - old.keys()}
    assert zeros
    assert_same(loaded, {name: (old | zeros)[name] for name in source})


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_come_as_float32(tmp_path, encoder, source, precision):
    other = {n: tensor.to(precision) if tensor.is_floating_point() else tensor for n, tensor in source.items()}
    loaded, *_ = read_encoder_file(saved(tmp_path / "x.pt", other), encoder)
    expected = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in other.items()}
    assert_same(loaded, expected)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e300])
def test_numbers_that_are_not_finite_in_float32_are_refused(tmp_path, encoder, source, value):
    spoilt = source | {FIRST: torch.full_like(source[FIRST], value, dtype=torch.float64)}
    assert f"1 tensor not finite (first: {FIRST})" in refusal(saved(tmp_path / "x.pt", spoilt), encoder)


def test_whole_numbers_for_weights_are_refused(tmp_path, encoder, source):
    path = saved(tmp_path / "x.pt", source | {FIRST: source[FIRST].to(torch.int8)})
    assert f"{FIRST} holds torch.int8, expected torch.float32." in refusal(path, encoder)


@pytest.mark.parametrize("change", [torch.Tensor.to_sparse, lambda tensor: tensor.to("meta")], ids=["sparse", "meta"])
def test_tensors_without_a_number_for_each_element_count_as_missing(tmp_path, encoder, source, change):
    path = saved(tmp_path / "x.pt", source | {FIRST: change(source[FIRST])})
    assert f"lacks 1 of its 75 tensors (first: {FIRST}; " in refusal(path, encoder)


def test_a_shape_that_does_not_fit_is_named_with_both(tmp_path, encoder, source):
    path = saved(
        tmp_path / "x.pt", {f"module.{n}": t for n, t in source.items()} | {f"module.{FIRST}": source[FIRST][:1]}
    )
    shape = tuple(source[FIRST].shape)
    message = refusal(path, encoder)
    assert f"it has 1 tensor of other shapes (first: {FIRST} {(1, *shape[1:])}, expected {shape})." in message
    assert message.endswith("Give the --encoder whose tensors have the names and shapes of the file.")


def test_missing_tensors_are_counted_beside_what_the_file_has_instead(tmp_path, encoder, source):
    weights = sum(not name.endswith("num_batches_tracked") for name in source)
    path = saved(tmp_path / "x.pt", {name: tensor for name, tensor in source.items() if name != FIRST})
    assert f"it lacks 1 of its {weights} tensors (first: {FIRST}; the file has no other)." in refusal(path, encoder)
    saved(path, {"features.0.weight": torch.ones(2)})
    assert f"lacks {weights} of its {weights} tensors (first: {FIRST}; the file has features.0.w" in refusal(
        path, encoder
    )
    saved(path, {})
    assert f"lacks {weights} of its {weights} tensors" in refusal(path, encoder)


def test_a_deeper_network_is_not_cut_to_a_smaller_encoder(tmp_path):
    with torch.device("meta"):
        deeper = torchvision.models.resnet34().state_dict()
    state = {f"backbone.{name}": torch.zeros(()).expand(tensor.shape) for name, tensor in deeper.items()}
    message = refusal(saved(tmp_path / "x.pt", state), encoder_of("resnet18", "meta"))
    assert "is of a larger encoder, with 96 tensors more (first: backbone.layer1.2.conv1.weight)" in message


def test_a_decoder_may_have_parts_of_the_same_names(tmp_path, encoder, source):
    state = {f"encoder.{name}": tensor for name, tensor in source.items()} | {"conv1.0.scale": torch.ones(2)}
    loaded, left_out, _ = read_encoder_file(saved(tmp_path / "x.pt", state), encoder)
    assert_same(loaded, source)
    assert left_out == ["conv1 (1 tensor)"]


def test_two_networks_that_fit_are_refused_by_their_prefixes(tmp_path, encoder, source):
    older = {name: tensor for name, tensor in source.items() if not name.endswith("num_batches_tracked")}
    message = refusal(saved(tmp_path / "x.pt", {"state_dict": source, "state_dict_ema": older}), encoder)
    assert "2 networks of this encoder, under 'state_dict.model' and 'state_dict_ema.model'" in message


def test_a_pickled_network_is_refused_with_what_to_do(tmp_path, encoder):
    message = refusal(saved(tmp_path / "x.pt", encoder), encoder)
    assert "holds objects of Python (segmentation_models_pytorch.encoders.timm_universal.TimmUniversalEnc" in message
    assert "Load it with the code that made it, and save its tensors alone: torch.save(model.state_dict()" in message


def test_files_that_cannot_be_read_or_hold_something_else_are_refused(tmp_path, encoder):
    (tmp_path / "text").write_bytes(b"not tensors")
    for name, problem in (("text", "cannot be read"), ("imagnet", "does not exist")):
        message = refusal(tmp_path / name, encoder)
        assert problem in message and message.endswith(" Give imagenet, none, or a file of an encoder's tensors.")
    assert "holds no state dict, but list." in refusal(saved(tmp_path / "list", [1]), encoder)


def test_a_build_says_once_what_a_file_counts_as_and_what_was_left_out(tmp_path, capsys, monkeypatch):
    network = build_model(Architecture(ARCH, ENCODER), 6)
    own = filled(network.encoder.state_dict())
    path = saved(tmp_path / "x.pt", own | {"fc.weight": torch.ones(2, 2)})
    built = build_model(Architecture(ARCH, ENCODER), 6, str(path))
    assert_same(dict(built.encoder.state_dict()), own)
    assert capsys.readouterr().out == (
        f"--encoder-weights {path}: taken as trained with mean 0.5 0.5 0.5, deviation 0.5 0.5 0.5, epsilon of batch "
        "normalisation the library's; left out fc (1 tensor), which the encoder does not have.\n"
    )
    monkeypatch.setenv("RANK", "1")
    build_model(Architecture(ARCH, ENCODER), 6, str(path))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("recorded", [None, EncoderConstants((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 0.01)])
def test_an_encoder_of_a_checkpoint_of_this_project_keeps_what_it_was_trained_with(tmp_path, recorded):
    network = build_model(Architecture(ARCH, ENCODER), 6, constants=recorded)
    metadata = {"encoder": ENCODER, "arch": ARCH}
    if recorded:
        metadata["encoder_constants"] = recorded.to_json()
    (tmp_path / "last.pt").write_bytes(checkpoint_bytes(network.state_dict(), metadata))
    built = build_model(Architecture(ARCH, ENCODER), 6, str(tmp_path / "last.pt"))
    assert EncoderConstants.installed(built.encoder) == (recorded or EncoderConstants())
    images = torch.rand(1, 3, 32, 32)
    if recorded:
        with torch.no_grad():
            features = [encoder.eval()(images)[-1] for encoder in (network.encoder, built.encoder)]
        assert torch.equal(*features)


def test_damaged_constants_of_a_checkpoint_are_refused(tmp_path, encoder):
    metadata = {
        "encoder": ENCODER,
        "arch": ARCH,
        "encoder_constants": {"mean": [1], "std": [1, 1, 1], "norm_eps": None},
    }
    (tmp_path / "last.pt").write_bytes(checkpoint_bytes({"a": torch.ones(1)}, metadata))
    assert "last.pt is a damaged checkpoint: its encoder_constants" in refusal(tmp_path / "last.pt", encoder)
