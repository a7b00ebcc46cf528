"""The training loop of the teacher and of all stages.

A stage hands ``fit`` a Recipe. Everything else (steps, batch size, schedule, augmentation, validation points) is
the same for every recipe, so that two arms differ in what their recipes differ in.
"""

import contextlib
import json
import math
import platform
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import segmentation_models_pytorch as smp
import torch
import torchvision
from tqdm import tqdm

from common.cli import UserError, command_for, lacks_memory, loader_died
from common.datasets import STRIDE, CropDataset, StepSampler, crop_loader, network_input
from common.device import Processes, autocast, cuda_problem, resolve_device
from common.figures import png_bytes
from common.files import json_text, locked, remove_partials, write_files
from common.history import history_figure, history_row, history_text, validation_line
from common.inference import tile_confusions
from common.leakage import require_apart, require_checked
from common.metrics import score
from common.models import Checkpoint, rerun_command
from common.presets import SETTINGS
from common.samplers import TileDraws
from common.stages import ARM_OF
from common.taxonomy import IGNORE_INDEX, Taxonomy, load_taxonomy
from common.text import warn
from common.tiles import TileSet

CHECKPOINT_KEPT = "The last checkpoint is as it was."
LEAKAGE_REPORT = "artifacts/leakage.json"
LOG_EVERY = 10  # steps between readings of the loss, each of which waits for the device
RUN_FILES = ("last.pt", "best.pt", "run.json", "history.csv", "curves.png")  # without the first there is no run


@dataclass
class Recipe:
    """What a stage is made of. Stages that are compared differ in one of the last five."""

    stage: str
    tiles: TileSet
    sampler: object
    cropper: object
    init: object
    loss: object

    def describe(self) -> dict:
        """The five components in plain values, as run.json holds them."""
        return {
            "tiles": {"folder": "/".join(self.tiles.path.resolve().parts[-2:]), "digest": self.tiles.digest},
            "sampler": self.sampler.describe(),
            "cropper": self.cropper.describe(),
            "init": self.init.describe(),
            "loss": self.loss.describe(),
        }


def open_train_and_val(args, made_by: str, taxonomy: Taxonomy | None = None) -> tuple[TileSet, TileSet]:
    """The tile sets of --train-dir and --val-dir.

    ``made_by`` is the data step that writes --train-dir; ``taxonomy`` that of the root unless given.

    Raises:
        UserError: the device cannot be used, a set is missing, is not the split it is used as, has other classes,
            shares something with the other, or its tiles are not larger than the crop.
    """
    _device(args)  # stops before anything is read where the preset cannot run here
    taxonomy = taxonomy or load_taxonomy(args.root)
    train = TileSet.open(args.train_dir, command_for(made_by, args)).require_split("train", "--train-dir")
    train.require_taxonomy(taxonomy)
    val_made_by = made_by if taxonomy.from_openearthmap is None else "data_prep.split_biodiversity"
    val = TileSet.open(args.val_dir, command_for(val_made_by, args)).require_split("val", "--val-dir")
    val.require_taxonomy(taxonomy)
    check = command_for("data_prep.check_leakage", args)
    require_apart(train, val, check)
    require_checked(args.root / LEAKAGE_REPORT, train, val, check)
    small = [tile.id for tile in train if min(tile.entry["height"], tile.entry["width"]) <= args.crop_size]
    if small:
        raise UserError(
            f"--crop-size {args.crop_size}: {len(small)} of {len(train)} tiles of {args.train_dir} are not larger "
            f"(first: {small[0]}), so that cropping would mean nothing. Give a smaller --crop-size."
        )
    if not any(tile.labelled for tile in val):
        raise UserError(f"{args.val_dir}: no tile has a labelled pixel, so nothing can be validated.")
    return train, val


def fit(recipe: Recipe, val: TileSet, args) -> None:
    """Train a recipe and leave last.pt, best.pt, run.json, history.csv and curves.png in --out-dir.

    Source of the schedule: linear warm-up, then half a cosine to zero (Loshchilov and Hutter 2017,
    arXiv:1608.03983, without restarts).

    Raises:
        UserError: no GPU for the paper preset, an output folder in use, a resume that does not match, a loss or weights
            that are not finite, a loader process that died, memory that does not suffice.
    """
    device = _device(args)
    processes = Processes(device)
    with locked(args.out_dir) if processes.main else contextlib.nullcontext():
        if processes.main:
            remove_partials([args.out_dir / name for name in RUN_FILES])
        _fit(recipe, val, args, device, processes)


def _fit(recipe: Recipe, val: TileSet, args, device: torch.device, processes: Processes) -> None:
    if args.crop_size % STRIDE:
        raise UserError(f"--crop-size {args.crop_size}: expected a multiple of {STRIDE}.")
    if args.batch_size % processes.world:
        raise UserError(f"--batch-size {args.batch_size}: expected a multiple of the {processes.world} processes.")
    taxonomy = recipe.tiles.taxonomy
    draws = TileDraws(recipe.tiles, recipe.sampler, args.seed)
    record = _record(recipe, val, args, draws, device)
    resumed = _resumable(args, record)

    torch.manual_seed(args.seed)
    model = recipe.init.build(args.arch, args.encoder, taxonomy).to(device)
    optimizer = make_optimizer(model, args)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _lr_factor(step, args))
    drawn = Drawn(len(recipe.tiles), taxonomy.num_classes, device)
    history: list[dict] = []
    seconds = {"training": 0.0, "validation": 0.0}
    if resumed is not None:
        model.load_state_dict(resumed.state, strict=True)
        optimizer.load_state_dict(resumed.training["optimizer"])
        schedule.load_state_dict(resumed.training["schedule"])
        if processes.main:  # the counts of all processes are added up later
            drawn.load(resumed.training["drawn"])
        history, seconds = resumed.training["history"], resumed.training["seconds"]
        record["checkpoints"] = resumed.metadata["checkpoints"]
        best = args.out_dir / "best.pt"  # may be of a validation after that of last.pt, where the run was killed
        record["best"] = Checkpoint.load(best, "--overwrite").metadata["best"] if best.is_file() else None
    network = processes.share(model, device)
    loss = recipe.loss.to(device)

    start = resumed.metadata["step"] if resumed else 0
    loader = crop_loader(
        CropDataset(recipe.tiles, draws, recipe.cropper, args.seed),
        StepSampler(start, args.iterations, args.batch_size, processes.rank, processes.world),
        args.workers,
        device,
    )
    meter = _LossMeter(processes, device)
    if resumed is not None:
        meter.sums, meter.steps = resumed.training["losses"]["sums"].numpy(), resumed.training["losses"]["steps"]
    bar = tqdm(
        total=args.iterations,
        initial=start,
        desc=f"{recipe.stage} seed {args.seed}",
        unit="step",
        disable=not processes.main,
        dynamic_ncols=True,
    )

    def checkpoint(step: int, metrics: dict | None) -> None:
        """Save the state after ``step`` optimizer steps, and where it was validated, what came of it."""
        record.update(
            step=step,
            crops=step * args.batch_size,
            finished=step == args.iterations,
            drawn=drawn.summary(processes, recipe.tiles),
            seconds={name: round(value, 2) for name, value in seconds.items()},
            **_peak_memory(device),
        )
        steps = [ancestor["steps"] for ancestor in record["ancestors"]]
        record["cumulative_steps"] = step + sum(steps)
        record["cumulative_crops"] = record["crops"] + sum(ancestor["crops"] for ancestor in record["ancestors"])
        better = metrics is not None and (record["best"] is None or metrics["mIoU"] > record["best"]["mIoU"])
        if metrics is not None:
            record["last"] = {"step": step, **metrics}
        if better:
            record["best"] = {"step": step, **metrics}
        training = {
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "drawn": drawn.state(processes),
            "history": history,
            "losses": {"sums": torch.from_numpy(meter.sums), "steps": meter.steps},
            "seconds": dict(seconds),
        }
        if not processes.main:
            return
        for tiles in (recipe.tiles, val):
            tiles.require_unchanged(
                f"{CHECKPOINT_KEPT} Start this run again: {rerun_command(args.command, '--overwrite')}"
            )
        earlier = [args.out_dir / name for name in RUN_FILES] if record["checkpoints"] == 0 else []
        record["checkpoints"] += 1
        state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
        require_finite(state, recipe.stage, step)
        metadata = json.loads(json.dumps(record))
        files = {"run.json": json_text(record)}
        if history:
            files["history.csv"] = history_text(history)
            files["curves.png"] = png_bytes(history_figure(history, taxonomy, f"{recipe.stage}, seed {args.seed}"))
        if better:
            files["best.pt"] = Checkpoint(args.out_dir / "best.pt", state, metadata).to_bytes()
        unfinished = None if record["finished"] else training
        # Last, so that a run that is killed in between is continued from a checkpoint before it, and ends as it should.
        files["last.pt"] = Checkpoint(args.out_dir / "last.pt", state, metadata, unfinished).to_bytes()
        write_files({args.out_dir / name: content for name, content in files.items()}, remove=earlier)

    def name_step(step: int) -> str:
        """An optimizer step, the first being 1, with the tiles that its crops come from, in all processes."""
        first = (step - 1) * args.batch_size
        tiles = sorted({recipe.tiles.ids[draws(position)] for position in range(first, first + args.batch_size)})
        return f"step {step}, whose crops are of the tiles {', '.join(tiles)}"

    def again() -> str:
        return rerun_command(args.command, "--resume") if record["checkpoints"] else args.command

    def now() -> str:
        return f"the validation after step {step}" if validating else name_step(step + 1)

    step, validating, since = start, False, time.perf_counter()
    with bar, _stop_signals() as stop, _failures_told(args, now, again):
        batches = iter(loader)
        network.train()
        for batch in batches:
            torch.manual_seed(_step_seed(args.seed, step, processes.rank))  # stochastic depth and dropout
            drawn.add(batch)
            batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
            batch["mask"] = batch["mask"].long()
            batch["image"] = network_input(batch["image"], batch["photometric"])
            with autocast(device):
                logits = network(batch["image"])
            total = meter.add(loss.terms(logits, batch))
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            meter.add_gradient(torch.nn.utils.clip_grad_norm_(model.parameters(), args.clip_norm))
            optimizer.step()
            lr = schedule.get_last_lr()[-1]
            schedule.step()
            step += 1
            bar.update()
            validate = step % args.val_every == 0 or step == args.iterations
            read = validate or step % LOG_EVERY == 0
            stopping = bool(stop) if processes.world == 1 else read and processes.agree(bool(stop), device)
            if read or stopping:
                meter.read(step, recipe.stage, name_step)
                rate = (step - start) * args.batch_size / (time.perf_counter() - since)
                bar.set_postfix_str(f"loss {meter.recent:.3f}, lr {lr:.1e}, {rate:.0f} crops/s")
            if validate:
                seconds["training"] += time.perf_counter() - since
                since = time.perf_counter()
                validating = True
                metrics = _validate(model, val, processes, device, args.workers)
                validating = False
                seconds["validation"] += time.perf_counter() - since
                history.append(history_row(step, meter.means(), lr, metrics, taxonomy))
                if processes.main:
                    tqdm.write(validation_line(history[-1], taxonomy))
                checkpoint(step, metrics)
                network.train()
                since, start = time.perf_counter(), step
            if stopping and step < args.iterations:
                seconds["training"] += time.perf_counter() - since
                checkpoint(step, None)
                if processes.main:
                    again = rerun_command(args.command, "--resume") + (" under torchrun" if processes.world > 1 else "")
                    tqdm.write(f"Stopped at step {step}. Continue with: {again}", file=sys.stderr)
                del batches  # ends the loader's workers
                raise SystemExit(128 + (stop[0] if stop else signal.SIGTERM))
    if processes.main:
        took = seconds["training"] + seconds["validation"]
        print(
            f"{args.out_dir}: {step} steps in {took:.0f} s; mIoU on val {record['last']['mIoU']:.1%} (last.pt), "
            f"{record['best']['mIoU']:.1%} at step {record['best']['step']} (best.pt)"
        )
    processes.close()


class Drawn:
    """Counts what the crops of a run really held: pixels of each class, crops with each class, draws of each tile."""

    def __init__(self, num_tiles: int, num_classes: int, device: torch.device):
        self.counts = {
            "pixels": torch.zeros(num_classes, dtype=torch.int64),
            "crops_with": torch.zeros(num_classes, dtype=torch.int64),
            "tiles": torch.zeros(num_tiles, dtype=torch.int64),
        }
        self.device = device

    def add(self, batch: dict[str, torch.Tensor]) -> None:
        """Count a batch with ``tile`` (N,) and ``pixels`` (N, C), both int64 and on the CPU."""
        self.counts["pixels"] += batch["pixels"].sum(dim=0)
        self.counts["crops_with"] += (batch["pixels"] > 0).sum(dim=0)
        self.counts["tiles"] += torch.bincount(batch["tile"], minlength=len(self.counts["tiles"]))

    def state(self, processes: Processes) -> dict[str, torch.Tensor]:
        """The counts of all processes."""
        return {name: processes.sum(count.to(self.device, copy=True)).cpu() for name, count in self.counts.items()}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Start from the counts of an earlier ``state``."""
        for name, count in state.items():
            self.counts[name].copy_(count)

    def summary(self, processes: Processes, tiles: TileSet) -> dict:
        """Shares by class name, and how many tiles and replicas were drawn."""
        counts = {name: count.numpy() for name, count in self.state(processes).items()}
        crops = max(int(counts["tiles"].sum()), 1)
        labelled = max(int(counts["pixels"].sum() - counts["pixels"][IGNORE_INDEX]), 1)
        names = tiles.taxonomy.classes
        replica = np.array(["base" in tile.entry and tile.entry["base"] is not None for tile in tiles])
        return {
            "pixel_share": {n: float(p / labelled) for n, p in zip(names[1:], counts["pixels"][1:], strict=True)},
            "crops_with_class": {n: float(c / crops) for n, c in zip(names[1:], counts["crops_with"][1:], strict=True)},
            "void_share": float(counts["pixels"][IGNORE_INDEX] / max(int(counts["pixels"].sum()), 1)),
            "distinct_tiles": int((counts["tiles"] > 0).sum()),
            "replica_share": float(counts["tiles"][replica].sum() / crops),
        }


class _LossMeter:
    """Turns loss terms into the loss to differentiate, and averages them between readings."""

    def __init__(self, processes: Processes, device: torch.device):
        self.processes = processes
        self.device = device
        self.pending: list[torch.Tensor] = []
        self.gradients: list[torch.Tensor] = []
        self.names: list[str] = []
        self.sums = np.zeros(0)
        self.steps = 0
        self.recent = math.nan

    def add(self, terms: list) -> torch.Tensor:
        """() float loss whose gradient, averaged over the processes, is that of the whole batch."""
        counts = self.processes.sum(torch.stack([term.count.float() for term in terms]))
        means = torch.stack([term.total for term in terms]) / counts.clamp(min=1)
        total = sum(term.weight * mean for term, mean in zip(terms, means, strict=True))
        self.names = ["loss", *(term.name for term in terms)] if len(terms) > 1 else ["loss"]
        parts = [total, *means] if len(terms) > 1 else [total]
        self.pending.append(torch.stack([part.detach() for part in parts]))
        return total * self.processes.world

    def add_gradient(self, norm: torch.Tensor) -> None:
        """Note the () float norm of the gradient of the step whose loss was added last."""
        self.gradients.append(norm.detach())

    def read(self, step: int, stage: str, name_step: Callable[[int], str]) -> None:
        """Fetch the losses since the last reading, of which that of ``step`` is the last.

        Raises:
            UserError: one of them, or the norm of a gradient, is not finite; ``name_step`` describes that step.
        """
        if not self.pending:
            return
        values = self.processes.sum(torch.stack(self.pending)).cpu().numpy()
        norms = torch.stack(self.gradients).cpu().numpy()  # in all processes the same
        sound = np.isfinite(values).all(axis=1) & np.isfinite(norms)
        if not sound.all():
            first = int(np.argmin(sound))
            at = step - len(values) + first + 1
            what = "loss" if not np.isfinite(values[first]).all() else "norm of the gradient"
            found = values[first, 0] if what == "loss" else norms[first]
            raise UserError(
                f"{stage}: the {what} became {found} at {name_step(at)}. {CHECKPOINT_KEPT} "
                "Look at these tiles, or give a smaller --lr."
            )
        self.sums = values.sum(axis=0) if not len(self.sums) else self.sums + values.sum(axis=0)
        self.steps += len(values)
        self.recent = float(values[:, 0].mean())
        self.pending, self.gradients = [], []

    def means(self) -> dict[str, float]:
        """Mean loss and its parts since the last call."""
        means = {name: float(value / self.steps) for name, value in zip(self.names, self.sums, strict=True)}
        self.sums, self.steps = np.zeros(0), 0
        return means


def _device(args) -> torch.device:
    device = resolve_device(args.device)
    if args.preset == "paper" and device.type == "cpu" and args.device == "auto":
        raise UserError(
            f"--preset paper is meant for a GPU: {cuda_problem()}. On the CPU choose --preset laptop, "
            "or give --device cpu to train the paper setting there all the same."
        )
    return device


def make_optimizer(model, args) -> torch.optim.Optimizer:
    """AdamW, with a learning rate for the encoder and one for all else, from the flags of the training scripts."""
    encoder = list(model.encoder.parameters())
    ids = {id(parameter) for parameter in encoder}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in ids]
    groups = [{"params": encoder, "lr": args.encoder_lr}, {"params": rest, "lr": args.lr}]
    return torch.optim.AdamW(groups, weight_decay=args.weight_decay, fused=True)


def _lr_factor(step: int, args) -> float:
    if step < args.warmup:
        return (step + 1) / args.warmup
    done = (step - args.warmup) / max(args.iterations - args.warmup, 1)
    return 0.5 * (1 + math.cos(math.pi * min(done, 1)))


def _step_seed(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0])


def _validate(model, val: TileSet, processes: Processes, device, workers: int) -> dict:
    processes.take_buffers_of_main(model)
    share = val.tiles[processes.rank :: processes.world]
    num_classes = val.taxonomy.num_classes
    confusions = tile_confusions(
        model, share, num_classes, device=device, workers=workers, desc="Validating" if processes.main else None
    )
    confusion = processes.sum(torch.from_numpy(confusions.sum(axis=0)).to(device)).cpu().numpy()
    return score(confusion, val.taxonomy)


def _record(recipe: Recipe, val: TileSet, args, draws: TileDraws, device) -> dict:
    """What is known of a run before it starts; run.json and the checkpoints' metadata grow from it."""
    ancestors = list(recipe.init.ancestors)
    return {
        "stage": recipe.stage,
        "compared_with": ARM_OF[recipe.stage].compared_with if recipe.stage in ARM_OF else None,
        "seed": args.seed,
        "command": args.command,
        "preset": args.preset,
        "arch": args.arch,
        "encoder": args.encoder,
        "iterations": args.iterations,
        "settings": {name: getattr(args, name) for name in SETTINGS},
        "recipe": recipe.describe(),
        "taxonomy": recipe.tiles.taxonomy.to_json(),
        "stretch": recipe.tiles.stretch,
        "train": _tiles_facts(recipe.tiles) | {"tiles_without_label": draws.without_label},
        "val": _tiles_facts(val),
        "ancestors": ancestors,
        "checkpoints": 0,
        "best": None,
        "last": None,
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads",
        "git_commit": _git_commit(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "segmentation_models_pytorch": smp.__version__,
            "numpy": np.__version__,
        },
    }


def _tiles_facts(tiles: TileSet) -> dict:
    return {"path": str(tiles.path), "digest": tiles.digest, "tiles": len(tiles)}


def _git_commit() -> str | None:
    here = Path(__file__).parent
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        shown = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # no git on this machine
        return None
    return shown.stdout.strip() or None


def _peak_memory(device) -> dict:
    peak = {"peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}
    if device.type == "cuda":
        peak["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated(device) / 2**20)
    return peak


def _resumable(args, record: dict) -> Checkpoint | None:
    """The checkpoint to continue from, or None for a run from the start."""
    last = args.out_dir / "last.pt"
    there = [name for name in RUN_FILES if (args.out_dir / name).exists()]
    if there and not (args.resume or args.overwrite):
        raise UserError(
            f"{args.out_dir} holds {', '.join(there)} of an earlier run. Continue it with --resume, "
            "or replace it with --overwrite."
        )
    if not (args.resume and last.is_file()):
        return None
    found = Checkpoint.load(last, rerun_command(args.command, "--overwrite"))
    if found.training is None:
        raise UserError(f"{last} is of a finished run of {found.metadata['step']} steps. Replace it with --overwrite.")
    known, asked = found.metadata, json.loads(json.dumps(record))
    for key in ("stage", "seed", "settings", "taxonomy", "stretch", "recipe"):
        if known[key] != asked[key]:
            raise UserError(f"--resume: {last} has another {_difference(key, known[key], asked[key])}.")
    for key in ("train", "val"):
        if known[key]["digest"] != asked[key]["digest"]:
            raise UserError(f"--resume: {last} was trained with other {key} tiles than {asked[key]['path']}.")
    for key in ("device", "versions"):
        if known[key] != asked[key]:
            difference = _difference(key, known[key], asked[key]).replace("asked for", "here")
            warn(f"{last} was trained with another {difference}. To the last digit the run will not be the same.")
    return found


def _difference(key: str, known, asked) -> str:
    if isinstance(known, dict) and isinstance(asked, dict):
        for name in sorted(known.keys() | asked.keys()):
            if known.get(name) != asked.get(name):
                return _difference(f"{key}.{name}", known.get(name), asked.get(name))
    return f"{key}: {known} there, {asked} asked for"


def require_finite(state: dict[str, torch.Tensor], stage: str, step: int) -> None:
    """Refuse to save weights of which one is not a finite number."""
    bad = [name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if bad:
        raise UserError(
            f"{stage}: {len(bad)} tensors of the network are not finite after step {step} (first: {bad[0]}). "
            f"{CHECKPOINT_KEPT} Give a smaller --lr."
        )


@contextmanager
def _failures_told(args, now: Callable[[], str], again: Callable[[], str]):
    """Say what is known where a loader process dies or memory runs out: ``now`` the step, ``again`` the command."""

    def say(what: str, remedy: str) -> UserError:
        return UserError(f"{what}, at {now()}. {CHECKPOINT_KEPT} {remedy} Go on with: {again()}")

    try:
        yield
    except (MemoryError, RuntimeError) as error:
        first = str(error).partition("\n")[0]
        if loader_died(error):
            remedy = "The system kills one when memory runs out: give fewer --workers."
            raise say(f"a loader process died ({first})", remedy) from None
        if lacks_memory(error):
            sizes = f"--batch-size {args.batch_size} and --crop-size {args.crop_size}"
            raise say(
                f"memory does not suffice for {sizes} ({first})",
                "Give smaller ones, the same in every arm, fewer --workers, or share the batch among several GPUs with "
                "torchrun.",
            ) from None
        raise


@contextmanager
def _stop_signals():
    """Give a list that SIGINT, SIGTERM and SIGHUP put their number in, so that a step is never cut in two."""
    caught: list[int] = []
    endings = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
        endings.append(signal.SIGHUP)
    previous = {ending: signal.signal(ending, lambda number, _: caught.append(number)) for ending in endings}
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
