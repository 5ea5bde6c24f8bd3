# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Reading a report
#
# What a comparison says, and what it does not say: on three learning rates, two seeds each, on drawn images. Two
# minutes on two CPU cores.

# %%
from pathlib import Path

from kdyolo import KDYOLO, compare, convert_coco, read_run
from kdyolo.data.synthetic import draw_dataset

data = convert_coco(draw_dataset(Path("shapes"), {"train": 96, "val": 32}, imgsz=64), "datasets/shapes").yaml
runs = []
for name, rate in {"slow": 0.0005, "middle": 0.002, "fast": 0.004}.items():
    for seed in (0, 1):
        run = f"runs/{name}-s{seed}"
        KDYOLO("kdyolov8n.yaml", random_init=True).train(
            data=str(data), epochs=4, imgsz=64, batch=8, device="cpu", seed=seed, work_dir=run, lr0=rate,
            optimizer="AdamW", warmup_epochs=1.0, plots=False, verbose=False,
        )  # fmt: skip
        runs.append(run)

# %% [markdown]
# ## Arms
#
# Runs that differ in their seed only are one arm; kdyolo finds them by itself, and names them by what differs. The
# first is the baseline, unless you name one.

# %%
comparison = compare(*runs, baseline=runs[2])
print(comparison.table())

# %% [markdown]
# Read it in this order:
#
# 1. **The verdict of each arm.** "Significant" means: were there no difference, one this large would be rare, with
#    all arms counted. "Not significant" does not mean equal: the interval says what is still possible.
# 2. **The interval.** With two seeds it is wide; the number of seeds that a gain of this size would need stands
#    behind it.
# 3. **Each seed.** If one seed carries the mean, so does chance.
# 4. **The notes.** What differs beside what you meant to compare stands there, or the comparison is refused.

# %%
comparison.to_frame()

# %%
comparison.differences_frame()

# %% [markdown]
# ## One run
#
# `read_run` gives the columns of a run's `results.csv`, also of stock Ultralytics' runs.

# %%
run = read_run(runs[0])
print([round(value, 3) for value in run.column("metrics/mAP50-95(B)")])

# %% [markdown]
# ## The page

# %%
compare(*runs, baseline=runs[2], out="report")
print(f"report/report.html: {Path('report/report.html').stat().st_size / 1e6:.1f} MB, and it loads nothing")
