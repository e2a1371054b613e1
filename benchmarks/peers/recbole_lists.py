"""In RecBole's environment: train a model shortly, print RecBole's own metrics on test, and write its lists.

    python recbole_lists.py FOLDER MODEL LISTS SETTINGS

FOLDER has `split/` with split.train.inter, split.valid.inter and split.test.inter; LISTS gets columns user,
rank and item with the files' ids.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed
from recbole.utils.case_study import full_sort_topk


def main() -> None:
    folder, model_name, lists, settings = sys.argv[1:5]
    config = Config(
        model=model_name, dataset="split",
        config_dict={
            "data_path": folder, "checkpoint_dir": str(Path(folder, "saved")),
            "benchmark_filename": ["train", "valid", "test"],
            "load_col": {"inter": ["user_id", "item_id"]},
            "eval_args": {"order": "RO", "group_by": "user", "mode": "full", "split": {"RS": [8, 1, 1]}},
            "metrics": ["Recall", "NDCG", "Hit"], "topk": [10, 20], "valid_metric": "Recall@20",
            "show_progress": False, "state": "ERROR", "eval_batch_size": 1 << 22, "use_gpu": False,
            "metric_decimal_place": 12,
        } | json.loads(settings),
    )  # fmt: skip
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    train, valid, test = data_preparation(config, dataset)
    model = get_model(config["model"])(config, train.dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    trainer.fit(train, valid, saved=False, show_progress=False)
    found = trainer.evaluate(test, load_best_model=False, show_progress=False)
    users = torch.unique(test.dataset.inter_feat["user_id"]).numpy()
    with Path(lists).open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file)
        out.writerow(["user", "rank", "item"])
        for start in range(0, len(users), 256):
            some = users[start : start + 256]
            _, best = full_sort_topk(some, model, test, k=20, device=config["device"])
            names = dataset.id2token("item_id", best.cpu())
            for user, items in zip(dataset.id2token("user_id", some), names, strict=True):
                out.writerows([user, place, item] for place, item in enumerate(items, start=1))
    print(json.dumps({name: float(value) for name, value in found.items()}))


if __name__ == "__main__":
    main()
