"""RecBole's own metrics beside `dslbench score` of the lists that it made, on the same split.

python benchmarks/lists.py [--dataset toy] [--model BPR]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

from backbones import HERE, export, peer_python, their_settings
from common import machine
from dslbench import data as datasets
from dslbench.data.ranked import read_ranked
from dslbench.errors import DslbenchError
from dslbench.report.given_lists import judge

NAMES = {"recall": "recall", "ndcg": "ndcg", "hit": "hr"}


def main() -> str:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset", default="toy")
    parser.add_argument("--model", default="BPR")
    parser.add_argument("--epochs", type=int, default=3)
    chosen = parser.parse_args()
    try:
        data = datasets.load(chosen.dataset)
    except DslbenchError as error:
        return f"skipped: {error}\n"
    with tempfile.TemporaryDirectory() as folder:
        export(data, Path(folder))
        lists = Path(folder, "lists.csv")
        settings = json.dumps({"epochs": chosen.epochs, "train_batch_size": 2048})
        done = subprocess.run(
            [str(peer_python()), str(HERE / "peers" / "recbole_lists.py"), folder, chosen.model,
             str(lists), settings],
            env=their_settings(), cwd=folder, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"RecBole's {chosen.model} failed:\n{done.stderr[-3000:]}")
        theirs = json.loads(done.stdout.strip().splitlines()[-1])
        numbers = (
            {str(number): number for number in range(n)} for n in (data.n_users, data.n_items)
        )
        judged = judge(read_ranked(lists, *numbers), data)
    lines = [
        f"### Lists of RecBole 1.2.1's {chosen.model}, {chosen.dataset}: its metrics and ours",
        "",
    ]
    lines += ["| metric | RecBole | dslbench score | difference |", "|---|---:|---:|---:|"]
    for name, value in theirs.items():
        kind, _, k = name.partition("@")
        ours = judged.means[f"{NAMES[kind]}@{k}"]
        assert ours is not None
        lines.append(f"| {name} | {value:.9f} | {ours:.9f} | {ours - value:+.1e} |")
    notes = "".join(f"- {note}\n" for note in judged.notes)
    return "\n".join([*lines, "", f"{judged.users:,} users. {notes}", machine()])


if __name__ == "__main__":
    print(main())
