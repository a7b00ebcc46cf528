"""Results as they lie on disk, and which of them may be compared.

What differs from most other results in anything but what its arm is about is left out, by name and with the reason.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from common.artifacts import complete_run_record
from common.bands import RGB, named
from common.errors import UserError
from common.files import read_json
from common.inputs import Input
from common.metrics import boundary_score, calibration_score, score
from common.schema import is_count, is_number, is_object, is_text, misfit, optional, values_of
from common.stages import ARM_OF
from common.taxonomy import Taxonomy, taxonomy_from_json
from common.text import some
from evaluation.scoring.results import (
    CONFUSIONS,
    METRICS,
    RUN_RECORD,
    WHICH,
    TileCounts,
    read_metrics,
    results_folder,
    seed_folders,
)
from evaluation.study.where import fold_of

OF_ONE_SEED = ("sampler.sha256", "init.digest", "loss.kd.teacher_digest")  # what a recipe takes from its own seed
OF_ONE_FOLD = (  # what it takes from the train of its own fold
    *("tiles.digest", "cropper.classes", "cropper.shares", "cropper.tiles"),
    *("loss.hard.class_weights.weights", "init.shares"),
)

RUN_FORM = {
    "settings": is_object,
    "recipe": is_object,
    "cumulative_crops?": is_count,
    "iterations?": is_count,
    "command?": is_text,
    "git_commit?": optional(is_text),
    "drawn?": {**dict.fromkeys(("pixel_share", "crops_with_class"), values_of(is_number))},
}


@dataclass(frozen=True)
class Result:
    """One checkpoint's result as it lies on disk: metrics.json, the counts of its tiles, and run.json."""

    arm: str
    seed: int
    which: str
    folder: Path
    metrics: dict
    tiles: TileCounts
    run: dict

    @property
    def name(self) -> str:
        return f"{self.arm} {self.run_name}"

    @property
    def run_name(self) -> str:
        """``seed 42``, or ``fold 3 seed 44``."""
        return f"fold {self.fold['fold']} seed {self.seed}" if self.fold else f"seed {self.seed}"

    @property
    def fold(self) -> dict | None:
        """Of a result in a study by folds, ``fold``, ``folds``, ``repeat`` and ``seed`` of the dealing; None else."""
        return self.metrics["split_facts"].get("fold")

    @cached_property
    def taxonomy(self) -> Taxonomy:
        return taxonomy_from_json(self.metrics["taxonomy"], self.folder / METRICS)

    @cached_property
    def scores(self) -> dict:
        """What ``common.metrics.score`` returns, ``boundary mIoU`` and ``ECE``."""
        scores = score(self.tiles.confusions.sum(axis=0), self.taxonomy)
        boundary = boundary_score(self.tiles.boundary.sum(axis=0), self.taxonomy, scores["classes"])
        calibration = calibration_score(self.tiles.calibration.sum(axis=0))
        return {**scores, "boundary mIoU": boundary["mIoU"], "ECE": calibration["ECE"]}

    @property
    def ground(self) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
        """What two results must have in common to be compared at all."""
        return self.tiles.split_digest, tuple(self.tiles.class_names), tuple(self.tiles.tile_ids)


def read_result(source: Input, arm: str, seed: int, which: str) -> Result:
    """The result in a folder. Raises UserError if it is damaged, or its files are of different evaluations."""
    metrics = read_metrics(source / METRICS)
    tiles = TileCounts.load(source / CONFUSIONS)
    run = read_json(source / RUN_RECORD)
    problem = misfit(run, RUN_FORM)
    if problem:
        raise source.unusable(f"{source / RUN_RECORD} is not of this project: {problem}")
    run = complete_run_record(run)
    names = taxonomy_from_json(metrics["taxonomy"], source.path / METRICS).classes
    checkpoint = (metrics["stage"], metrics["seed"], metrics["which"])
    if checkpoint != (arm, seed, which):
        raise source.unusable(f"{source / METRICS} is of {checkpoint[0]} seed {checkpoint[1]} {checkpoint[2]}.pt")
    digests = (metrics["split_digest"], metrics["checkpoint_digest"])
    if digests != (tiles.split_digest, tiles.checkpoint_digest) or list(names) != tiles.class_names:
        raise source.unusable(f"{source}: {METRICS} and {CONFUSIONS} are of two evaluations")
    if metrics["split"] != "val":
        raise UserError(f"{source / METRICS} is of the {metrics['split']} split; stages are compared on val alone.")
    return Result(arm, seed, which, source.path, metrics, tiles, run)


Runs = dict[tuple[str, int], Result]  # last.pt by arm and seed


class LeftOut(NamedTuple):
    """A result that is not compared with the others, and why."""

    arm: str
    seed: int
    reason: str


def read_results(in_dirs: Iterable[Input]) -> tuple[list[Result], list[LeftOut]]:
    """Every result that can be compared with most others, and what is left out.

    ``in_dirs``: the results of one split, or those of each fold.
    """
    in_dirs = list(in_dirs)
    results, left_out = [], []
    for in_dir in in_dirs:
        of_folder, out = _read_folder(in_dir, among_folds=len(in_dirs) > 1)
        results += of_folder
        left_out += out
    for find in (_other_dealing, _other_seeds_of_folds, _folds_in_common):
        foreign = find(results)
        left_out += foreign.values()
        results = [result for result in results if result.folder not in foreign]

    last: Runs = {(result.arm, result.seed): result for result in results if result.which == "last"}
    unfair: dict[tuple[str, int], LeftOut] = {}
    for find in (_other_bands, _other_settings, _other_budgets, _other_recipes, _other_ancestors):
        fair = [result for run, result in last.items() if run not in unfair]
        unfair |= {(out.arm, out.seed): out for out in find(fair, last)}
    unfair |= {
        (out.arm, out.seed): out
        for out in _unfinished_repeats([r for r in last.values() if (r.arm, r.seed) not in unfair])
    }
    left_out += unfair.values()
    return [result for result in results if (result.arm, result.seed) not in unfair], left_out


def _read_folder(in_dir: Input, among_folds: bool) -> tuple[list[Result], list[LeftOut]]:
    """The results under a folder that are of its fold and of the same val tiles as most, and what is left out."""
    results, left_out = [], []
    for arm in ARM_OF:
        for seed, seed_dir in seed_folders(in_dir.path / arm):
            for which in WHICH:
                of_arm = Input(in_dir.path / arm / seed_dir.name, in_dir.made_by.plus("--stages", arm))
                source = results_folder(of_arm, which)
                if which == "best" and not source.path.is_dir():
                    continue
                try:
                    results.append(read_result(source, arm, seed, which))
                except UserError as problem:
                    left_out.append(LeftOut(arm, seed, str(problem)))
    number = fold_of(in_dir.path)
    foreign = {
        result.folder: LeftOut(result.arm, result.seed, f"{result.folder} is of {_told(result)}, not of fold {number}")
        for result in results
        if (result.fold["fold"] != number if result.fold and number else among_folds)
    }
    of_fold = [result for result in results if result.folder not in foreign]
    foreign |= unlike_most(of_fold, lambda result: result.ground, _other_ground)
    left_out += [out._replace(reason=str(in_dir.unusable(out.reason))) for out in foreign.values()]
    return [result for result in results if result.folder not in foreign], left_out


def _other_dealing(results: list[Result]) -> dict[Path, LeftOut]:
    """By folder, the results of another dealing into folds, or of other classes, than most."""

    digests = Counter(digest for result in results if (digest := _dealing(result)))
    most_common = digests.most_common(1)[0][0] if digests else None

    def dealing(result: Result) -> tuple:
        fold = result.fold
        digest = _dealing(result) or most_common  # results of before version 0.12 do not say it
        return (fold["folds"], fold["seed"], digest) if fold else None, result.ground[1]

    def told(result: Result) -> str:
        dealt = f", dealing {_dealing(result)}"[:18] if _dealing(result) else ""
        return f"{_told(result)}{dealt}, with classes {some(result.tiles.class_names)}"

    def explain(result: Result, most: Result) -> str:
        return f"{result.folder} is of {told(result)}, but most are of {told(most)}"

    return unlike_most(results, dealing, explain)


def _dealing(result: Result) -> str | None:
    """The digest of how the tiles of a study by folds were dealt."""
    return result.metrics["split_facts"].get("dealing")


def _told(result: Result) -> str:
    fold = result.fold
    return f"fold {fold['fold']} of {fold['folds']} (seed {fold['seed']})" if fold else "a split without folds"


def _by_fold(results: list[Result]) -> dict[int, list[Result]]:
    """The results of each fold, none of one split, by its number in order."""
    folds: dict[int, list[Result]] = {}
    for result in results:
        if result.fold:
            folds.setdefault(result.fold["fold"], []).append(result)
    return dict(sorted(folds.items()))


def _other_seeds_of_folds(results: list[Result]) -> dict[Path, LeftOut]:
    """By folder, results of another seed than most of their fold, which count once."""

    def explain(result: Result, most: Result) -> str:
        return f"{result.name} was trained with another seed than most runs of its fold ({most.seed})"

    left_out = {}
    for of_fold in _by_fold(results).values():
        left_out |= unlike_most(of_fold, lambda result: result.seed, explain)
    return left_out


def _folds_in_common(results: list[Result]) -> dict[Path, LeftOut]:
    """By folder, results of a fold that has val tiles of its repeat, or its seed, in common with an earlier fold."""
    left_out, kept = {}, []
    for number, of_fold in _by_fold(results).items():
        for earlier in kept:
            what = _in_common(of_fold[0], earlier)
            if what:
                reason = f"fold {number} has {what} in common with {earlier.run_name}"
                left_out |= {r.folder: LeftOut(r.arm, r.seed, f"{r.folder}: {reason}") for r in of_fold}
                break
        else:
            kept.append(of_fold[0])
    return left_out


def _unfinished_repeats(fair: list[Result]) -> list[LeftOut]:
    """Runs of a dealing of which a stage lacks folds while it has all folds of another."""
    dealings: dict[str, dict[int, list[Result]]] = {}
    for result in fair:
        if result.fold:
            dealings.setdefault(result.arm, {}).setdefault(result.fold["repeat"], []).append(result)
    left_out = []
    for repeats in dealings.values():
        unfinished = [of for of in repeats.values() if of[0].fold and len(of) < of[0].fold["folds"]]
        for of_repeat in unfinished if len(unfinished) < len(repeats) else []:
            folds = ", ".join(str(result.fold["fold"]) for result in of_repeat if result.fold)
            reason = f"fold {folds}: counts once all folds of its dealing are there"
            left_out += [LeftOut(result.arm, result.seed, reason) for result in of_repeat]
    return left_out


def _in_common(one: Result, two: Result) -> str | None:
    """What results of two folds must not have in common; None if there is nothing."""
    same_repeat = one.fold and two.fold and one.fold["repeat"] == two.fold["repeat"]
    shared = sorted(set(one.tiles.tile_ids) & set(two.tiles.tile_ids)) if same_repeat else []
    if shared:
        return f"the val tiles {some(shared)}"
    return f"seed {one.seed}" if one.seed == two.seed else None


def unlike_most(
    results: list[Result], key: Callable[[Result], Hashable], explain: Callable[[Result, Result], str]
) -> dict[Path, LeftOut]:
    """By folder, the results whose ``key`` is not the most common one; of equally common ones the earliest counts."""
    if not results:
        return {}
    common, _ = Counter(map(key, results)).most_common(1)[0]
    most = next(result for result in results if key(result) == common)
    others = [result for result in results if key(result) != common]
    return {result.folder: LeftOut(result.arm, result.seed, explain(result, most)) for result in others}


def _other_ground(result: Result, most: Result) -> str:
    if result.ground[0] != most.ground[0]:
        return f"{result.folder} was scored on other val tiles than most (split digest {result.ground[0][:12]})"
    other = "classes, or classes in another order," if result.ground[1] != most.ground[1] else "val tiles"
    return f"{result.folder} was scored on other {other} than most ({some(result.tiles.class_names)})"


def _flat(values: dict, prefix: str = "") -> dict[str, str]:
    """Nested values by dotted path, as text."""
    flat = {}
    for name, value in values.items():
        nested = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{name}.") if nested else {prefix + name: str(value)}
    return flat


def _differences(mine: dict, theirs: dict) -> list[str]:
    return sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))


def _other_bands(fair: list[Result], _: Runs) -> list[LeftOut]:
    def bands(result: Result) -> tuple[int, ...] | None:
        named_bands = (result.run.get("images") or {}).get("bands")
        return tuple(named_bands) if named_bands else None

    def explain(result: Result, most: Result) -> str:
        mine, theirs = (named(bands(one) or RGB) for one in (result, most))
        return f"{result.name} was trained on the bands {mine} (most: {theirs})"

    return list(unlike_most(fair, lambda r: bands(r) or RGB, explain).values())


def _other_settings(fair: list[Result], _: Runs) -> list[LeftOut]:
    def explain(result: Result, most: Result) -> str:
        mine, theirs = _flat(result.run["settings"]), _flat(most.run["settings"])
        changed = [f"{name} {mine.get(name)} (most: {theirs.get(name)})" for name in _differences(mine, theirs)]
        return f"{result.name} was trained with {', '.join(changed)}"

    return list(unlike_most(fair, lambda r: tuple(sorted(_flat(r.run["settings"]).items())), explain).values())


def _other_budgets(fair: list[Result], _: Runs) -> list[LeftOut]:
    def budget(result: Result) -> tuple[float, float]:
        """Steps and crops, those of ancestors included, for each training that the arm is made of."""
        trainings = ARM_OF[result.arm].trainings
        return result.metrics["cumulative_steps"] / trainings, result.run.get("cumulative_crops", 0) / trainings

    def explain(result: Result, most: Result) -> str:
        trainings = ARM_OF[result.arm].trainings
        seen = result.metrics["cumulative_steps"], result.run.get("cumulative_crops", 0)
        steps, crops = (round(trainings * value) for value in budget(most))
        return (
            f"{result.name} has seen {seen[0]:,} steps and {seen[1]:,} crops with those of its ancestors, but "
            f"{steps:,} and {crops:,} were expected"
        )

    return list(unlike_most(fair, budget, explain).values())


def _other_recipes(fair: list[Result], _: Runs) -> list[LeftOut]:
    """Runs whose recipe is not that of most runs of the arm."""

    def recipe(result: Result) -> dict[str, str]:
        own = OF_ONE_SEED + (OF_ONE_FOLD if result.fold else ())
        return {path: value for path, value in _flat(result.run["recipe"]).items() if path not in own}

    def explain(result: Result, most: Result) -> str:
        changed = ", ".join(_differences(recipe(result), recipe(most)))
        return f"{result.name} was trained with another {changed} than most runs of its stage"

    left_out = []
    for arm in ARM_OF:
        of_arm = [result for result in fair if result.arm == arm]
        left_out += unlike_most(of_arm, lambda result: tuple(sorted(recipe(result).items())), explain).values()
    return left_out


def _other_ancestors(fair: list[Result], last: Runs) -> list[LeftOut]:
    """Runs that start from a run that is left out, or from another one than was scored."""
    left_out = []
    for result in fair:
        init = result.run["recipe"].get("init")
        ancestor = last.get((str(init.get("stage")), result.seed)) if isinstance(init, dict) else None
        if ancestor is None:
            continue
        if ancestor not in fair:
            reason = f"{result.name} starts from {ancestor.name}, which is left out"
        elif ancestor.metrics["checkpoint_digest"] != init.get("digest"):
            reason = f"{result.name} starts from another {ancestor.arm} than the one that is scored here"
        else:
            continue
        left_out.append(LeftOut(result.arm, result.seed, reason))
    return left_out


def mixed_changes(result: Result, other: Result, component: str | None) -> str | None:
    """Why the difference of two runs would mix changes: what differs in their recipes beside ``component``."""
    differing = _differences(_flat(result.run["recipe"]), _flat(other.run["recipe"]))
    beside = [path for path in differing if component and path != component and not path.startswith(f"{component}.")]
    if component is None or (differing and not beside):
        return None
    changed = f"also in {', '.join(beside)}" if beside else "in nothing"
    return f"{result.name} differs from {other.arm} {changed}, expected {component} alone"
