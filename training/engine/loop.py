"""The training loop of the teacher and of all stages.

A stage hands ``fit`` a Recipe. Everything else (steps, batch size, schedule, augmentation, validation points) is
the same for every recipe, so that two arms differ in what their recipes differ in.
"""

import contextlib
import json
import math
import signal
import sys
import time

import numpy as np
import torch
from tqdm import tqdm

from common.checkpoints import Checkpoint, rerun_command
from common.datasets import STRIDE, CropDataset, StepSampler, crop_loader, network_input
from common.device import Processes, autocast
from common.errors import UserError
from common.figures import png_bytes
from common.files import json_text, locked, remove_partials, write_files
from common.inference import tile_confusions
from common.metrics import score
from common.samplers import TileDraws
from common.tiles import TileSet
from training.engine.history import history_figure, history_row, history_text, validation_line
from training.engine.interruptions import _failures_told, _stop_signals
from training.engine.meters import Drawn, _LossMeter
from training.engine.preflight import _device
from training.engine.recipe import Recipe
from training.engine.run_folder import CHECKPOINT_KEPT, RUN_FILES, _peak_memory, _record, _resumable, require_finite

LOG_EVERY = 10  # steps between readings of the loss, each of which waits for the device


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
