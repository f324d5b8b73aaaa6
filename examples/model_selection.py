"""Choose a model for real data, keep every result, and find the results again.

``make demo``, or ``python examples/model_selection.py [--folder demo-output] [--keep]``.

The data are the 569 breast tumours that come with scikit-learn: 30 measurements
each, benign or malignant. Every candidate is a node of a workflow, so each one is
stored as soon as it is computed, and the second run has nothing left to compute.
"""

from __future__ import annotations

import argparse
import io
import itertools
import shutil
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from sklearn.base import BaseEstimator
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, confusion_matrix, roc_auc_score, roc_curve
from sklearn.model_selection import StratifiedKFold, cross_val_score, train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage import storage_factory
from functionfuse.storage.base import Storage
from functionfuse.workflow import Node

NAME = "model-selection"
GRIDS: dict[str, dict[str, list[Any]]] = {
    "logistic": {"C": [0.01, 0.1, 1.0, 10.0]},
    "svm": {"C": [0.1, 1.0, 10.0], "gamma": [0.003, 0.01, 0.03]},
    "neighbours": {"n_neighbors": [3, 7, 15]},
    "forest": {"n_estimators": [50, 100], "max_depth": [4, None]},
    "boosting": {"learning_rate": [0.1, 0.3], "max_depth": [1, 2]},
}


# The steps: plain functions. Decorated, a call of one makes a node and runs nothing.


@workflow
def load() -> pd.DataFrame:
    """Return one row a tumour, with the column ``target``: 1 is benign."""
    table: pd.DataFrame = load_breast_cancer(as_frame=True).frame
    return table


@workflow
def split(table: pd.DataFrame, test_share: float, seed: int) -> dict[str, pd.DataFrame]:
    """Return the rows to choose by, and those that nobody looks at before the end."""
    train, test = train_test_split(table, test_size=test_share, random_state=seed, stratify=table["target"])
    return {"train": train, "test": test}


@workflow
def score(kind: str, train: pd.DataFrame, folds: int, **parameters: Any) -> dict[str, Any]:
    """Return what cross-validation says of one candidate."""
    accuracies = cross_val_score(
        make_model(kind, parameters),
        *measured(train),
        cv=StratifiedKFold(folds, shuffle=True, random_state=0),
        scoring="accuracy",
    )
    return {
        "kind": kind,
        "parameters": parameters,
        "accuracy": float(accuracies.mean()),
        "deviation": float(accuracies.std()),
    }


@workflow
def choose(scores: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the candidate with the highest accuracy."""
    return max(scores, key=accuracy_of)


@workflow
def fit(candidate: dict[str, Any], train: pd.DataFrame) -> BaseEstimator:
    """Return the chosen model, trained on all training rows."""
    return make_model(candidate["kind"], candidate["parameters"]).fit(*measured(train))


@workflow
def evaluate(model: BaseEstimator, test: pd.DataFrame) -> dict[str, Any]:
    """Return how the model does on rows that it has never seen."""
    features, target = measured(test)
    return {
        "accuracy": float(accuracy_score(target, model.predict(features))),
        "roc_auc": float(roc_auc_score(target, benign_scores(model, features))),
        "confusion": confusion_matrix(target, model.predict(features)).tolist(),
    }


@workflow
def draw(scores: list[dict[str, Any]], model: BaseEstimator, test: pd.DataFrame) -> bytes:
    """Return a PNG: all candidates on the left, the chosen model's ROC curve on the right."""
    figure = Figure(figsize=(11, 5), layout="constrained")
    ranking, curve = figure.subplots(1, 2)
    ranked = sorted(scores, key=accuracy_of)
    ranking.errorbar(
        [candidate["accuracy"] for candidate in ranked],
        [label(candidate) for candidate in ranked],
        xerr=[candidate["deviation"] for candidate in ranked],
        fmt="o",
    )
    ranking.set(xlabel="accuracy (mean and deviation over the folds)", title="Candidates")
    features, target = measured(test)
    curve.plot(*roc_curve(target, benign_scores(model, features))[:2])
    curve.set(xlabel="false positive rate", ylabel="true positive rate", title="Chosen model on test rows")
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    return png.getvalue()


# Their helpers. A change of one makes the results that used it stale, too.


def make_model(kind: str, parameters: dict[str, Any]) -> BaseEstimator:
    """Return an untrained model."""
    if kind == "logistic":
        model: BaseEstimator = LogisticRegression(max_iter=1_000)
    elif kind == "svm":
        model = SVC()
    elif kind == "neighbours":
        model = KNeighborsClassifier()
    elif kind == "forest":
        model = RandomForestClassifier(random_state=0)
    else:
        model = GradientBoostingClassifier(random_state=0)
    return make_pipeline(StandardScaler(), model.set_params(**parameters))


def measured(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
    """Return the measurements, and what is to be found out by them."""
    return table.drop(columns="target"), table["target"]


def benign_scores(model: BaseEstimator, features: pd.DataFrame) -> Any:
    """Return a number for each row, the greater the more likely it is benign."""
    if hasattr(model, "decision_function"):
        return model.decision_function(features)
    return model.predict_proba(features)[:, 1]


def accuracy_of(candidate: dict[str, Any]) -> float:
    """Return what candidates are ranked by."""
    return float(candidate["accuracy"])


def label(candidate: dict[str, Any]) -> str:
    """Return a candidate's name, such as ``svm C=10.0 gamma=0.01``."""
    return " ".join([candidate["kind"], *(f"{name}={value}" for name, value in candidate["parameters"].items())])


# The graph: who needs whose result. Names make results easy to find, and the same in every run.


def selection() -> list[Node]:
    """Return the nodes whose results are wanted: the evaluation and the figure."""
    parts = split(load().set_name("table"), test_share=0.25, seed=7).set_name("split")
    scores = [
        score(each["kind"], parts["train"], folds=5, **each["parameters"]).set_name(f"score {label(each)}")
        for each in candidates()
    ]
    model = fit(choose(scores).set_name("choice"), parts["train"]).set_name("model")
    evaluation = evaluate(model, parts["test"]).set_name("evaluation")
    return [evaluation, draw(scores, model, parts["test"]).set_name("figure")]


def candidates() -> list[dict[str, Any]]:
    """Return every kind of model with every choice of one value a parameter."""
    return [
        {"kind": kind, "parameters": dict(zip(grid, values, strict=True))}
        for kind, grid in GRIDS.items()
        for values in itertools.product(*grid.values())
    ]


# The program.


def main(folder: Path, keep: bool) -> None:
    """Run twice, then ask the catalog."""
    if not keep:
        clear(folder)
    storage = storage_factory({"kind": "file", "options": {"path": folder / "results"}})
    before_first = datetime.now()
    title("First run: computes what is not stored yet")
    run(storage)
    before_second = datetime.now()
    title("Second run: reads the two results that are asked for, and nothing else")
    evaluation, figure = run(storage)

    title("Both results")
    (folder / "figure.png").write_bytes(figure)
    print("  accuracy {accuracy:.4f}, area under the ROC curve {roc_auc:.4f} on the test rows".format_map(evaluation))
    print(f"  {folder / 'figure.png'}")
    by_glob(storage)
    by_date(storage, before_first, before_second)
    by_sql(storage)

    title("For other tools: every result with its origin, as Parquet")
    storage.catalog.export(folder / "tasks.parquet", overwrite=True)
    print(f"  {folder / 'tasks.parquet'}")
    look_next(folder)


def run(storage: Storage) -> list[Any]:
    """Run the selection, and tell what it took."""
    selecting = LocalWorkflow(*selection(), workflow_name=NAME)
    selecting.set_storage(storage)
    began = time.perf_counter()
    results: list[Any] = selecting.run()
    seconds = time.perf_counter() - began
    computed, restored = storage.catalog.sql("SELECT computed, restored FROM runs ORDER BY started").fetchall()[-1]
    print(f"  {computed} nodes computed, {restored} restored, {seconds:.2f} s")
    return results


def by_glob(storage: Storage) -> None:
    """List results by their names."""
    title("By glob: storage.list_tasks(NAME, 'score svm*gamma=0.01')")
    for name in storage.list_tasks(NAME, "score svm*gamma=0.01"):
        print(f"  {name}")


def by_date(storage: Storage, before_first: datetime, before_second: datetime) -> None:
    """List results by when they were saved."""
    title("By date: storage.list_tasks(NAME, since=..., until=...)")
    first = storage.list_tasks(NAME, since=before_first, until=before_second)
    second = storage.list_tasks(NAME, since=before_second)
    print(f"  since {before_first:%X}, until {before_second:%X}: {len(first)} results")
    print(f"  since {before_second:%X}: {len(second)} results")


def by_sql(storage: Storage) -> None:
    """Rank the candidates by the values in the catalog."""
    ranking = """
    SELECT task, round((value->>'accuracy')::DOUBLE, 4) AS accuracy, round(duration, 2) AS seconds
    FROM tasks WHERE task LIKE 'score %'
    ORDER BY accuracy DESC, task LIMIT 5"""
    title(f"By SQL: the five best candidates, without reading a single result{ranking}")
    storage.catalog.sql(ranking).show()


def look_next(folder: Path) -> None:
    """Tell a newcomer where to go from here."""
    title("Look at next")
    for place, why in {
        folder / "figure.png": "all candidates, and the chosen model's ROC curve",
        folder / "results" / NAME: "one file a result; each of them says what it is",
        "examples/model_selection.py": "the steps; change one, run it with --keep, and see what is called stale",
        "README.md": "the same in ten lines, and how to ask for what",
        "docs/guide.md": "everything else",
    }.items():
        print(f"  {place!s:<38} {why}")


def title(text: str) -> None:
    """Print a headline."""
    print(f"\n{text}")


def clear(folder: Path) -> None:
    """Delete what an earlier demo left in the folder, and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / "results", ignore_errors=True)
    for name in ("figure.png", "tasks.parquet"):
        (folder / name).unlink(missing_ok=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Model selection on real data, twice, and questions to the catalog.")
    parser.add_argument("--folder", type=Path, default=Path("demo-output"), help="where to write; %(default)s")
    parser.add_argument("--keep", action="store_true", help="go on with what an earlier demo left there")
    options = parser.parse_args()
    main(options.folder, options.keep)
