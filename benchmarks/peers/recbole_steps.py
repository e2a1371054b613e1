"""Time RecBole's training steps and full ranking; run by the Python of RecBole's own environment.

    python recbole_steps.py FOLDER MODEL STEPS EVALUATE SETTINGS

FOLDER holds the split as `split/split.{train,valid,test}.inter`; SETTINGS is RecBole configuration as
JSON. Prints one line of JSON: seconds of each step (batch included), of each evaluation, and of reading;
peak memory in bytes.
"""

from __future__ import annotations

import functools
import json
import resource
import sys
import time

import torch

# RecBole 1.2.1 stores more than weights in its checkpoints, which torch 2.6 refuses by default.
torch.load = functools.partial(torch.load, weights_only=False)

from recbole.config import Config  # noqa: E402
from recbole.data import create_dataset, data_preparation  # noqa: E402
from recbole.utils import get_model, get_trainer, init_seed  # noqa: E402


def main() -> None:
    folder, name, steps, evaluations = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    settings = {
        "data_path": folder, "benchmark_filename": ["train", "valid", "test"],
        "load_col": {"inter": ["user_id", "item_id"]}, "metrics": ["Recall", "NDCG", "Hit"],
        "topk": [20], "valid_metric": "Recall@20", "use_gpu": False, "show_progress": False,
        "eval_args": {"split": {"RS": [8, 1, 1]}, "group_by": "user", "order": "RO", "mode": "full"},
        "eval_batch_size": 4_000_000, "checkpoint_dir": f"{folder}/saved",
    } | json.loads(sys.argv[5])  # fmt: skip
    sys.argv = sys.argv[:1]
    config = Config(model=name, dataset="split", config_dict=settings)
    init_seed(0, False)
    began = time.perf_counter()
    dataset = create_dataset(config)
    train, valid, _ = data_preparation(config, dataset)
    read = time.perf_counter() - began
    model = get_model(name)(config, train.dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
    model.train()
    times: list[float] = []
    while len(times) < steps:
        batches = iter(train)
        while len(times) < steps:
            began = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                break
            trainer.optimizer.zero_grad()
            batch = batch.to(config["device"])
            loss = model.calculate_loss(batch)
            loss = sum(loss) if isinstance(loss, tuple) else loss
            loss.item()  # its trainer adds them up and looks for NaN
            loss.backward()
            trainer.optimizer.step()
            times.append(time.perf_counter() - began)
    ranking = []
    for _ in range(evaluations):
        began = time.perf_counter()
        trainer.evaluate(valid, load_best_model=False, show_progress=False)
        ranking.append(time.perf_counter() - began)
    on_gpu = torch.cuda.is_available() and settings["use_gpu"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"steps": times, "evaluations": ranking, "batches": len(train), "read": read,
                      "peak_rss_bytes": peak,
                      "peak_cuda_bytes": torch.cuda.max_memory_allocated() if on_gpu else None}))  # fmt: skip


if __name__ == "__main__":
    main()
