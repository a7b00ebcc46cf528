import hashlib
import math
import pickle
import struct
import urllib.error
from types import SimpleNamespace

import pytest
import torch

from common import models
from common.checkpoints import (
    METADATA,
    Checkpoint,
    digest_tensors,
    finished_checkpoint,
    lineage,
    load_teacher,
)
from common.errors import UserError
from common.initial_weights import EncoderWeights, StageWeights
from common.models import Architecture, SilenceVoid, build_model, load_strictly
from common.taxonomy import BIODIVERSITY, IGNORE_INDEX, OPENEARTHMAP
from tests.conftest import ARCH, ENCODER
from tests.helpers import THREE_CLASSES, made, save_checkpoint

TRAIN = "python -m training.train_stage5a_pretrain"


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return build_model(Architecture(ARCH, ENCODER), 6)


def test_the_output_of_void_is_fixed_and_the_others_are_left_alone():
    logits = torch.randn(2, 6, 3, 3, generator=torch.Generator().manual_seed(0))
    before = logits.clone()
    silent = SilenceVoid()(logits)
    assert torch.equal(logits, before) and torch.equal(silent[:, 1:], before[:, 1:])
    assert (silent[:, IGNORE_INDEX] < -1000).all() and silent.isfinite().all()
    for precision in (torch.float16, torch.bfloat16):
        low = SilenceVoid()(logits.to(precision))
        assert low.isfinite().all() and not low.softmax(dim=1)[:, IGNORE_INDEX].any()


def test_void_is_never_predicted_and_its_output_is_not_trained():
    small = build_model(Architecture(ARCH, ENCODER), 6)
    logits = small.train()(torch.randn(2, 3, 32, 32))
    assert logits.shape == (2, 6, 32, 32)
    assert not (logits.argmax(dim=1) == IGNORE_INDEX).any()
    assert not logits.softmax(dim=1)[:, IGNORE_INDEX].any()
    logits.sum().backward()
    head = small.segmentation_head[0][0].weight.grad
    assert not head[IGNORE_INDEX].any() and head[1:].any()


def test_one_seed_gives_one_network():
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(digest_tensors(build_model(Architecture(ARCH, ENCODER), 6).state_dict()))
    assert states[0] == states[1] != states[2]


def test_imagenet_weights_that_cannot_be_downloaded_are_told_with_both_ways_out(monkeypatch):
    def offline(*args, **kwargs):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(models.smp, "create_model", offline)
    with pytest.raises(UserError, match="--encoder-weights none") as error:
        build_model(Architecture("unet", "resnet18"), 6, "imagenet")
    assert "--encoder-weights FILE" in str(error.value) and "resnet18" in str(error.value)


def test_weights_that_the_hub_does_not_give_are_told_as_such_by_older_hub_clients_too(monkeypatch):
    class LocalEntryNotFoundError(FileNotFoundError, ValueError):  # as in huggingface_hub before 1.0
        pass

    def offline(*args, **kwargs):
        raise LocalEntryNotFoundError("cannot find the requested files in the local cache")

    monkeypatch.setattr(models.smp, "create_model", offline)
    with pytest.raises(UserError, match="could not be downloaded.*--encoder-weights none"):
        build_model(Architecture("unet", "resnet18"), 6, "imagenet")


def test_encoder_weights_from_a_file_are_all_loaded(small, tmp_path):
    torch.save(small.encoder.state_dict(), tmp_path / "encoder.pt")
    torch.manual_seed(5)
    taxonomy, source = BIODIVERSITY, str(tmp_path / "encoder.pt")
    for loaded in (
        build_model(Architecture(ARCH, ENCODER), 6, source),
        EncoderWeights(source).build(Architecture(ARCH, ENCODER), taxonomy),
    ):
        assert digest_tensors(loaded.encoder.state_dict()) == digest_tensors(small.encoder.state_dict())
        assert digest_tensors(loaded.decoder.state_dict()) != digest_tensors(small.decoder.state_dict())


def test_encoder_weights_are_recorded_with_the_digest_of_their_file(tmp_path):
    (tmp_path / "encoder.pt").write_bytes(b"weights")
    path = str(tmp_path / "encoder.pt")
    digest = hashlib.sha256(b"weights").hexdigest()
    assert EncoderWeights(path).describe() == {"kind": "encoder", "weights": path, "sha256": digest}
    for source in ("imagenet", "none"):
        assert EncoderWeights(source).describe() == {"kind": "encoder", "weights": source}
    assert tuple(EncoderWeights("none").ancestors) == ()


@pytest.mark.parametrize(("source", "asked"), [("imagenet", "imagenet"), ("none", None)])
def test_imagenet_weights_are_asked_of_the_library_only_where_they_are_wanted(monkeypatch, source, asked):
    create, seen = models.smp.create_model, []

    def note(arch, encoder, **settings):
        seen.append((arch, encoder, settings))
        return create(arch, encoder, **{**settings, "encoder_weights": None})

    monkeypatch.setattr(models.smp, "create_model", note)
    EncoderWeights(source).build(Architecture(ARCH, ENCODER), THREE_CLASSES)
    assert seen == [(ARCH, ENCODER, {"encoder_weights": asked, "in_channels": 3, "classes": 4})]


def test_encoder_weights_that_do_not_fit_or_are_not_there_are_refused(small, tmp_path):
    torch.save(small.decoder.state_dict(), tmp_path / "decoder.pt")
    with pytest.raises(UserError, match="--encoder-weights: .*decoder.pt does not fit"):
        build_model(Architecture(ARCH, ENCODER), 6, str(tmp_path / "decoder.pt"))
    with pytest.raises(UserError, match="--encoder-weights: .*gone.pt does not exist"):
        build_model(Architecture(ARCH, ENCODER), 6, str(tmp_path / "gone.pt"))


@pytest.mark.parametrize(
    ("arch", "encoder", "said"), [("unett", "resnet18", "unett"), ("unet", "resnet1", "resnet1"), ("unet", "", "")]
)
def test_an_unknown_network_is_refused_by_name(arch, encoder, said):
    with pytest.raises(UserError, match=f"--arch.*{said}"):
        build_model(Architecture(arch, encoder), 6)


@pytest.mark.parametrize(("mistyped", "meant"), [("resnet19", "resnet18"), ("tu-resnet19", "tu-resnet18")])
def test_names_like_a_mistyped_one_are_offered(mistyped, meant):
    with pytest.raises(UserError, match=rf"Give another --arch or --encoder \(.*{meant}"):
        build_model(Architecture("unet", mistyped), 6)


def test_weights_of_another_network_are_refused_with_the_first_tensor_that_differs(small):
    state = small.state_dict()
    first, *others = state
    with pytest.raises(UserError, match=f"1 tensors are missing.*first: {first}"):
        load_strictly(small, {name: state[name] for name in others})
    with pytest.raises(UserError, match="1 are unknown.*first: extra"):
        load_strictly(small, state | {"extra": torch.zeros(1)})
    with pytest.raises(UserError, match=f"1 have another shape.*first: {first}"):
        load_strictly(small, state | {first: state[first][None]})
    for strange in ([1], {1: torch.zeros(1)}):
        with pytest.raises(UserError, match="is no state dict"):
            load_strictly(small, strange)


def test_every_tensor_of_a_state_is_loaded(small):
    other = build_model(Architecture(ARCH, ENCODER), 6)
    load_strictly(other, small.state_dict())
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, small.state_dict()[name]), name


def test_the_digest_of_a_network_is_that_of_its_names_and_bytes():
    state = {"b": torch.tensor([1, -2]), "a": torch.tensor([[0.5, 2.0], [3.0, -1.0]])}
    wanted = hashlib.sha256(b"a" + struct.pack("<4f", 0.5, 2.0, 3.0, -1.0) + b"b" + struct.pack("<2q", 1, -2))
    assert digest_tensors(state) == wanted.hexdigest()
    turned = {"a": state["a"].T.contiguous().T, "b": state["b"]}  # the same values in another layout
    assert digest_tensors(turned) == wanted.hexdigest()
    nearly = {**state, "a": torch.nextafter(state["a"], torch.tensor(9.0))}
    assert digest_tensors(nearly) != wanted.hexdigest()


def known(**changes):
    """The metadata of a finished run of stage 5A with seed 42."""
    metadata = {
        **{"stage": "stage5a_pretrain", "arch": ARCH, "encoder": ENCODER, "seed": 42, "step": 20, "iterations": 20},
        **{"crops": 160, "cumulative_steps": 30, "train": {"digest": "t"}, "val": {"digest": "v"}},
        **{"taxonomy": BIODIVERSITY.to_json(), "stretch": {"kind": "set"}},
        "ancestors": [{"stage": "earlier", "steps": 10, "crops": 80, "digest": "e"}],
        "command": "python -m training.train_stage5a_pretrain --overwrite --root 'my root'",
    }
    return {**metadata, **changes}


def save(path, small, training=None, **changes):
    save_checkpoint(path, small.state_dict(), known(**changes), training)
    return path


def save_briefly(path, small):
    """A checkpoint that says no more than what is needed to build its network."""
    metadata = {"stage": "s", "arch": ARCH, "encoder": ENCODER, "taxonomy": BIODIVERSITY.to_json()}
    save_checkpoint(path, small.state_dict(), metadata)


def test_a_checkpoint_comes_back_as_the_same_network(small, tmp_path):
    save_briefly(tmp_path / "last.pt", small)
    found = Checkpoint.load(made(tmp_path / "last.pt", TRAIN))
    assert found.digest == digest_tensors(small.state_dict()) and found.taxonomy == BIODIVERSITY
    assert digest_tensors(found.build().state_dict()) == found.digest


def test_the_digest_of_a_checkpoint_does_not_depend_on_its_name(small, tmp_path):
    for name in ("a.pt", "b.pt"):
        save_briefly(tmp_path / name, small)
    assert (
        Checkpoint.load(made(tmp_path / "a.pt", TRAIN)).digest == Checkpoint.load(made(tmp_path / "b.pt", TRAIN)).digest
    )


def test_a_truncated_checkpoint_is_refused_with_the_remedy(small, tmp_path):
    path = tmp_path / "last.pt"
    save_briefly(path, small)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UserError, match=f"last.pt.*Train it again: {TRAIN} --overwrite"):
        Checkpoint.load(made(path, TRAIN))


def test_a_checkpoint_that_holds_code_is_refused_and_runs_nothing(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    torch.save({"model": Bomb()}, tmp_path / "bomb.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Bomb(), protocol=2))
    for name in ("bomb.pt", "plain.pt"):
        with pytest.raises(UserError, match=name):
            Checkpoint.load(made(tmp_path / name, TRAIN))
    assert not (tmp_path / "executed").exists()


def test_a_checkpoint_with_a_bit_turned_over_on_the_disk_is_refused(small, tmp_path):
    path = save(tmp_path / "last.pt", small)
    content = bytearray(path.read_bytes())
    name, largest = max(small.state_dict().items(), key=lambda item: item[1].numel())
    start = content.index(largest.numpy().tobytes())
    content[start + 2000] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"last\.pt cannot be read.*damaged.*again: {TRAIN}"):
        Checkpoint.load(made(path, TRAIN))


def test_what_is_no_file_is_told_from_what_is_not_there(tmp_path):
    with pytest.raises(UserError, match=f"gone.pt does not exist. Train it first: {TRAIN}$"):
        Checkpoint.load(made(tmp_path / "gone.pt", TRAIN))
    with pytest.raises(UserError, match=f"is no file. Train it again: {TRAIN} --overwrite"):
        Checkpoint.load(made(tmp_path, TRAIN))


@pytest.mark.parametrize(
    "content", [{"model": {}, "metadata": {}}, {"model": 1, "metadata": {}, "training": None}, [1]]
)
def test_a_file_of_another_program_is_no_checkpoint(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(
        UserError, match=f"x.pt is not a checkpoint of this project. Train it again: {TRAIN} --overwrite"
    ):
        Checkpoint.load(made(tmp_path / "x.pt", TRAIN))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[
            (key, 1)
            for key in ("stage", "arch", "encoder", "train", "val", "taxonomy", "stretch", "ancestors", "command")
        ],
        *[(key, "1") for key in ("seed", "step", "iterations", "crops", "cumulative_steps", "val", "ancestors")],
        *[(key, True) for key in ("seed", "step")],
        *[(key, {"digest": 1}) for key in ("train", "val")],
        ("ancestors", [{"stage": "s", "steps": 1}]),
        ("ancestors", [{"stage": "s", "steps": "1", "crops": 1}]),
        ("ancestors", [{"stage": 1, "steps": 1, "crops": 1}]),
        ("ancestors", [1]),
        ("command", "python -m 'training"),
        ("command", ""),
    ],
)
def test_metadata_of_another_form_are_refused_by_name(small, tmp_path, key, value):
    with pytest.raises(UserError, match=f"not a checkpoint of this project: its {key}: it.*again: {TRAIN}"):
        Checkpoint.load(made(save(tmp_path / "last.pt", small, **{key: value}), TRAIN))


def test_a_taxonomy_that_is_none_is_refused_with_the_remedy(small, tmp_path):
    path = save(tmp_path / "last.pt", small, taxonomy={"classes": ["a"]})
    with pytest.raises(UserError, match=rf"last\.pt: 'classes' has 1 names.*again: {TRAIN}"):
        Checkpoint.load(made(path, TRAIN))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_checkpoint_with_a_weight_that_is_not_finite_is_refused(tmp_path, value):
    state = {"a": torch.zeros(3), "b": torch.tensor([0.0, value]), "steps": torch.tensor([1])}
    save_checkpoint(tmp_path / "last.pt", state, known())
    with pytest.raises(UserError, match=f"1 tensors are not finite.*first: b.*again: {TRAIN}"):
        Checkpoint.load(made(tmp_path / "last.pt", TRAIN))


@pytest.mark.parametrize(("state", "training"), [({"a": 1}, None), ({"a": torch.zeros(1)}, [1])])
def test_a_checkpoint_that_holds_other_things_than_tensors_is_refused(tmp_path, state, training):
    torch.save({"model": state, "metadata": known(), "training": training}, tmp_path / "x.pt")
    with pytest.raises(UserError, match="holds other things than tensors"):
        Checkpoint.load(made(tmp_path / "x.pt", TRAIN))


def test_a_checkpoint_keeps_its_metadata_and_where_the_run_is(small, tmp_path):
    training = {"history": [{"step": 1}], "optimizer": {"state": {0: torch.ones(2)}}}
    found = Checkpoint.load(made(save(tmp_path / "last.pt", small, training), TRAIN))
    assert found.metadata == known() and found.training["history"] == training["history"]
    assert (
        torch.equal(found.training["optimizer"]["state"][0], torch.ones(2)) and found.training.keys() == training.keys()
    )
    assert found.require(["stage", "val"]) is found
    with pytest.raises(UserError, match=f"does not say its colour, size. Train it again: {TRAIN}"):
        found.require(["stage", "colour", "size"])


def test_a_checkpoint_names_itself_where_its_network_cannot_be_built(small, tmp_path):
    path = save(tmp_path / "last.pt", small, arch="unett")
    with pytest.raises(UserError, match=rf"last\.pt: --arch unett.*Train it again: {TRAIN}"):
        Checkpoint.load(made(path, TRAIN)).build()
    with pytest.raises(UserError, match=r"last\.pt does not fit.*Give the --arch, --encoder and --decoder"):
        Checkpoint.load(made(save(path, small), TRAIN)).load_into(Architecture("linknet", ENCODER))


def finished(path, stage="stage5a_pretrain", seed=42):
    return finished_checkpoint(made(path, TRAIN), stage, seed)


def test_a_checkpoint_of_a_finished_run_is_accepted_as_it_is(small, tmp_path):
    assert finished(save(tmp_path / "last.pt", small)).metadata == known()


@pytest.mark.parametrize("asked", [{"stage": "stage1_baseline"}, {"seed": 7}])
def test_a_checkpoint_of_another_stage_or_seed_is_refused(small, tmp_path, asked):
    with pytest.raises(
        UserError,
        match=f"is of stage5a_pretrain with seed 42, expected .*Train it again: {TRAIN} --overwrite",
    ):
        finished(save(tmp_path / "last.pt", small), **asked)


def test_a_checkpoint_of_an_unfinished_run_is_refused_with_the_command_that_finishes_it(small, tmp_path):
    for training in ({"history": []}, {}):
        path = save(tmp_path / "last.pt", small, training, step=10)
        with pytest.raises(UserError, match="unfinished run, at step 10 of 20. Finish it: .*'my root' --resume$"):
            finished(path)


@pytest.mark.parametrize("key", [*known()])
def test_a_checkpoint_that_does_not_say_what_is_asked_of_every_run_is_refused(tmp_path, key):
    assert METADATA.keys() == known().keys()
    metadata = {name: value for name, value in known().items() if name != key}
    save_checkpoint(tmp_path / "last.pt", {"a": torch.zeros(1)}, metadata)
    with pytest.raises(UserError, match=f"does not say its {key}. Train it again: {TRAIN}"):
        finished(tmp_path / "last.pt")


def test_a_teacher_is_a_finished_run_of_the_teacher_in_the_openearthmap_classes(tmp_path):
    torch.manual_seed(0)
    network = build_model(Architecture(ARCH, ENCODER), 9)
    path = save(tmp_path / "last.pt", network, stage="teacher", taxonomy=OPENEARTHMAP.to_json())
    teacher = load_teacher(made(path, TRAIN), 42)
    assert teacher.taxonomy == OPENEARTHMAP and digest_tensors(teacher.build().state_dict()) == teacher.digest
    for refused, said in (
        (
            {"taxonomy": BIODIVERSITY.to_json(), "stage": "teacher"},
            "not trained in the OpenEarthMap.*again: python.* --over",
        ),
        ({"taxonomy": OPENEARTHMAP.to_json()}, "expected teacher with seed 42"),
        ({"taxonomy": OPENEARTHMAP.to_json(), "stage": "teacher", "seed": 43}, "expected teacher with seed 42"),
    ):
        with pytest.raises(UserError, match=said):
            load_teacher(made(save(tmp_path / "other.pt", network, **refused)), 42)


def stage_weights(path, digest="v", stretch="set"):
    val = SimpleNamespace(digest=digest, stretch={"kind": stretch}, path="data/val", manifest={})
    return StageWeights(made(path, TRAIN), "stage5a_pretrain", 42, val)


def test_a_stage_starts_from_every_tensor_of_the_earlier_one_and_counts_its_steps(small, tmp_path):
    init = stage_weights(save(tmp_path / "last.pt", small))
    torch.manual_seed(9)
    built = init.build(Architecture(ARCH, ENCODER), BIODIVERSITY).state_dict()
    assert digest_tensors(built) == digest_tensors(small.state_dict())
    digest = digest_tensors(small.state_dict())
    assert init.ancestors == (
        {"stage": "earlier", "steps": 10, "crops": 80, "digest": "e"},
        {"stage": "stage5a_pretrain", "steps": 20, "crops": 160, "digest": digest},
    )
    assert lineage(init.checkpoint) == list(init.ancestors)
    assert init.describe() == {"kind": "stage", "stage": "stage5a_pretrain", "digest": digest}


@pytest.mark.parametrize("other", [{"digest": "w"}, {"stretch": "tile"}])
def test_a_stage_does_not_start_from_a_network_of_another_split_or_scaling(small, tmp_path, other):
    with pytest.raises(UserError, match="another split than that of data/val.*again: python.* --overwrite"):
        stage_weights(save(tmp_path / "last.pt", small), **other)


def test_a_stage_does_not_start_from_another_run_or_for_other_classes(small, tmp_path):
    for changes in ({"seed": 43}, {"stage": "stage1_baseline"}, {"training": {"history": []}}):
        with pytest.raises(UserError, match="expected stage5a_pretrain with seed 42|unfinished run, at step"):
            stage_weights(save(tmp_path / "last.pt", small, **changes))
    init = stage_weights(save(tmp_path / "last.pt", small))
    with pytest.raises(UserError, match="not for this taxonomy.*again: python.* --overwrite"):
        init.build(Architecture(ARCH, ENCODER), THREE_CLASSES)
    with pytest.raises(UserError, match="does not fit"):
        init.build(Architecture("linknet", ENCODER), BIODIVERSITY)
