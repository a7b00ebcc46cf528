"""The training loop of the teacher and of all stages.

A stage hands ``fit`` a Recipe. Everything else (steps, batch size, schedule, augmentation, validation points) is
the same for every recipe, so that two trainings differ only in what their recipes differ in.
"""

import contextlib
import math
import sys

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from common.bands import RGB
from common.datasets import STRIDE, network_input
from common.device import Processes, autocast, place
from common.encoders import first_layer
from common.errors import UserError
from common.files import locked
from common.inference import tile_confusions
from common.metrics import score
from common.tiles import TileSet
from training.engine.averaging import AveragedNetwork
from training.engine.colours import ColoursMoveLess
from training.engine.crops import CropDataset, StepSampler, TileDraws, crop_loader
from training.engine.flags import RunOptions, TrainSettings
from training.engine.history import history_row, validation_line
from training.engine.interruptions import StopSignals, failures_told
from training.engine.meters import DrawnCrops, LossMeter, Position
from training.engine.preflight import training_device
from training.engine.recipe import Recipe
from training.engine.run_folder import RunFolder, TrainingState
from training.engine.trial import try_networks

LOG_EVERY = 10  # steps between readings of the loss, each of which waits for the device


def fit(recipe: Recipe, val: TileSet, settings: TrainSettings, run: RunOptions) -> None:
    """Train a recipe and leave last.pt, best.pt, run.json, history.csv and curves.png in the run's folder.

    Raises:
        UserError: no GPU for the paper preset, an output folder in use, a resume that does not match, a loss or weights
            that are not finite, a loader process that died, too little memory.
    """
    device = training_device(run)
    processes = Processes(device)
    with locked(run.out_dir) if processes.main else contextlib.nullcontext():
        train(recipe, val, settings, run, processes, device)
        processes.close()


def train(
    recipe: Recipe,
    val: TileSet,
    settings: TrainSettings,
    run: RunOptions,
    processes: Processes,
    device: torch.device,
) -> None:
    """The loop: draw, forward, loss, backward, step; at some steps validate and save."""
    if settings.crop_size % STRIDE:
        raise UserError(f"--crop-size {settings.crop_size}: expected a multiple of {STRIDE}.")
    if settings.batch_size % processes.world:
        raise UserError(f"--batch-size {settings.batch_size}: expected a multiple of the {processes.world} processes.")
    taxonomy = recipe.tiles.taxonomy
    draws = TileDraws(recipe.tiles, recipe.sampler, run.seed)
    folder = RunFolder(recipe, val, settings, run, draws.without_label, processes, device)
    unfinished = folder.unfinished()

    torch.manual_seed(run.seed)
    model = place(recipe.init.build(settings.architecture, taxonomy, recipe.tiles.band_statistics), device)
    folder.note_network(model, unfinished)
    average = AveragedNetwork(model, settings.average * settings.iterations)
    optimizer = make_optimizer(model, settings)
    schedule = make_schedule(optimizer, settings)
    drawn = DrawnCrops(len(recipe.tiles), taxonomy.num_classes, processes, device)
    losses = LossMeter(processes)
    state = TrainingState(model, average, optimizer, schedule, drawn, losses)
    position = Position(recipe.tiles, draws, settings.batch_size)
    if unfinished is not None:
        state.load(unfinished)
        position.step = unfinished.metadata["step"]
    loss = recipe.loss.to(device)
    crops = CropDataset(recipe.tiles, draws, recipe.cropper, run.seed)
    steps = StepSampler(position.step, settings.iterations, settings.batch_size, processes.rank, processes.world)
    with failures_told(settings, position, folder):
        try_networks(model, loss, to_device(crops[next(iter(steps))], device), val, settings, processes)
    network = processes.share(model, device)
    bar = tqdm(
        desc=f"{recipe.stage} seed {run.seed}",
        total=settings.iterations,
        initial=position.step,
        unit="step",
        dynamic_ncols=True,
        disable=not processes.main,
    )
    with bar, StopSignals(processes, device) as signals, failures_told(settings, position, folder):
        network.train()
        state.watch.start(position.step)
        for batch in crop_loader(crops, steps, run.workers, device):
            drawn.add(batch)
            inputs = to_device(batch, device)
            torch.manual_seed(step_seed(run.seed, position.step, processes.rank))  # stochastic depth and dropout
            with autocast(device):
                logits = network(inputs["image"])
            total = losses.add(loss.terms(logits, inputs))
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            losses.add_gradient(nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm))
            optimizer.step()
            learning_rate = float(schedule.get_last_lr()[-1])
            schedule.step()
            position.step += 1
            average.update(position.step)
            bar.update()

            finished = position.step == settings.iterations
            validates = finished or position.step % settings.val_every == 0
            reads_loss = validates or position.step % LOG_EVERY == 0
            stops = signals.ask(together=reads_loss) and not finished
            if reads_loss or stops:
                losses.read(recipe.stage, position)
                speed = state.watch.steps_per_second(position.step) * settings.batch_size
                bar.set_postfix_str(f"loss {losses.recent:.3f}, lr {learning_rate:.1e}, {speed:.0f} crops/s")
            if validates:
                state.watch.stop("training")
                position.validating = True
                metrics = validate(average.network, val, processes, device, run.workers)
                position.validating = False
                state.watch.stop("validation")
                state.history.append(history_row(position.step, losses.means(), learning_rate, metrics, taxonomy))
                if processes.main:
                    tqdm.write(validation_line(state.history[-1], taxonomy))
                folder.save(state, position.step, metrics)
                network.train()
                state.watch.start(position.step)
            if stops:
                state.watch.stop("training")
                folder.save(state, position.step, None)
                if processes.main:
                    launcher = " under torchrun" if processes.world > 1 else ""
                    message = f"Stopped at step {position.step}. Continue with: {run.command.resumed()}{launcher}"
                    tqdm.write(message, file=sys.stderr)
                raise SystemExit(signals.exit_status)
    if processes.main:
        print(folder.summary())


def to_device(batch: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """What network and loss see of a batch of crops: ``image`` (N, B, S, S) float32, ``mask`` (N, S, S) int64."""
    images, masks, photometric = (
        batch[name].to(device, non_blocking=True) for name in ("image", "mask", "photometric")
    )
    return {"image": network_input(images, photometric), "mask": masks.long()}


def make_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """AdamW, with a learning rate for the encoder and one for all else.

    A first layer that sees more bands than red, green and blue has the latter, and ``ColoursMoveLess`` the former for
    the part of it that sees these three.
    """
    encoder = model.get_submodule("encoder")
    ids = {id(parameter) for parameter in encoder.parameters()}
    first = first_layer(encoder)
    extra = [first.weight] if first is not None and first.in_channels > len(RGB) else []
    ids -= {id(parameter) for parameter in extra}
    slow = [parameter for parameter in model.parameters() if id(parameter) in ids]
    rest = [parameter for parameter in model.parameters() if id(parameter) not in ids]
    groups = [{"params": slow, "lr": settings.encoder_lr}, {"params": rest, "lr": settings.lr}]
    optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay, fused=True)
    for weight in extra:
        ColoursMoveLess(weight, settings.encoder_lr / settings.lr).attach(optimizer)
    return optimizer


def make_schedule(optimizer: torch.optim.Optimizer, settings: TrainSettings) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up, then half a cosine to zero.

    Source: Loshchilov and Hutter 2017, arXiv:1608.03983, without restarts.
    """

    def factor(step: int) -> float:
        if step < settings.warmup:
            return (step + 1) / settings.warmup
        done = (step - settings.warmup) / max(settings.iterations - settings.warmup, 1)
        return 0.5 * (1 + math.cos(math.pi * min(done, 1)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def step_seed(seed: int, step: int, rank: int) -> int:
    """The seed of what the network draws by itself in a step, another one in each process."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0])


def validate(model: nn.Module, val: TileSet, processes: Processes, device: torch.device, workers: int) -> dict:
    """The scores of a network on a split, whose tiles the processes share among them; see ``common.metrics.score``."""
    processes.take_buffers_of_main(model)
    share = val.tiles[processes.rank :: processes.world]
    num_classes = val.taxonomy.num_classes
    confusions = tile_confusions(
        model, share, num_classes, device=device, workers=workers, desc="Validating" if processes.main else None
    )
    confusion = processes.sum(torch.from_numpy(confusions.sum(axis=0)).to(device)).cpu().numpy()
    return score(confusion, val.taxonomy)
