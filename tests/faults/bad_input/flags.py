"""Flags with values that no script can work with."""

from tests.faults.bad_input.shared import (
    ANALYZE,
    FILTER,
    METRICS,
    PREDICT,
    PREPARE_TEACHER,
    RELABEL,
    REPLICATE,
    SCORE,
    SMALL,
    SPLITTING,
    STAGE1,
    STAGE6,
    Case,
    nothing,
)

DEMO, COVERAGE = "data_prep.make_demo_data", "evaluation.simulate_coverage"
VALUES = [  # of a flag of a script; the message names that flag, or what stands after them
    (SPLITTING, "--fractions", ("0.8 0.1 0.2", "1 0 0", "1.2 -0.1 -0.1", "nan 0.5 0.5")),
    (SPLITTING, "--block-size", ("-5", "nan", "1e-30", "1e30")),
    (SPLITTING, "--bands", ("0 1 2", "1 x", "1 2 99999999999")),
    (SPLITTING, "--seed", ("-1",)),
    (SPLITTING, "--workers", ("-1",)),
    (FILTER, "--max-built", ("1.5", "nan")),
    (FILTER, "--block-size", ("0",)),
    (ANALYZE, "--minority-share", ("-0.1",)),
    (ANALYZE, "--tile-share", ("inf",)),
    (REPLICATE, "--copies", ("0", "1000000000")),
    (PREPARE_TEACHER, "--val-fraction", ("0", "1")),
    (PREPARE_TEACHER, "--gsd", ("1e-9",)),
    (RELABEL, "--gsd", ("0", "-1", "1e-9", "1e30")),
    (DEMO, "--tile-size", ("0", "1000000000")),
    (DEMO, "--scenes", ("1000000000",)),
    (DEMO, "--oem-tiles", ("1000000000",)),
    (STAGE1, "--crop-size", ("48",), "--crop-size 48"),
    (STAGE1, "--crop-size", ("64",), "--crop-size 64"),
    (STAGE1, "--crop-size", ("-32",)),
    (STAGE1, "--batch-size", ("0", "1000000000")),
    (STAGE1, "--iterations", ("0", "2.5")),
    (STAGE1, "--lr", ("nan", "1e30", "-1")),
    (STAGE1, "--weight-decay", ("inf",)),
    (STAGE1, "--clip-norm", ("0",)),
    (STAGE1, "--val-every", ("0",)),
    (STAGE1, "--seed", ("99999999999999999999999",)),
    (STAGE1, "--arch", ("u_net_9",)),
    (STAGE1, "--encoder", ("resnet9000",)),
    (STAGE1, "--encoder-weights", ("gone.pt",), "gone.pt"),
    (STAGE6, "--kd-alpha", ("2",)),
    (STAGE6, "--temperature", ("0",)),
    (SCORE, "--alpha", ("-1", "inf", "1e308")),
    (PREDICT, "--tiles", ("0",)),
    (METRICS, "--seed", ("-1 --split test",)),
    (METRICS, "--reason", ("",)),
    (COVERAGE, "--trials", ("0",)),
    (COVERAGE, "--trainings", ("0", "7")),
]
FIRST = {module: (flag, values[0]) for module, flag, values, *_ in reversed(VALUES)}  # the quick case of each script
ROOTS = {SPLITTING: "raw", FILTER: "oem", **dict.fromkeys((SCORE, STAGE6, METRICS, PREDICT), "trained")}
NEEDED = {
    **dict.fromkeys((STAGE1, STAGE6), SMALL),
    **dict.fromkeys((SCORE, REPLICATE, RELABEL, PREPARE_TEACHER), ("--overwrite",)),
}
CASES = [
    *(
        Case(
            f"{module} {flag} {value}",
            ROOTS.get(module, "data"),
            nothing,
            module,
            tuple(words) or (flag,),
            (*NEEDED.get(module, ()), flag, *value.split(" ")),
            quick=(flag, value) == FIRST[module],
        )
        for module, flag, values, *words in VALUES
        for value in values
    ),
    Case(
        "tiles of one pixel to train on",
        "trained",
        nothing,
        STAGE1,
        ("--crop-size 64", "are not larger", "Give a smaller --crop-size"),
        (*SMALL, "--crop-size", "64"),
    ),
]
