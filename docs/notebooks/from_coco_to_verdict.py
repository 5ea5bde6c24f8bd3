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
# # From a COCO folder to a verdict
#
# The whole way in Python, on drawn images: convert COCO annotations, make a backbone, train on it frozen and thawed,
# beside a random start, and let several seeds decide. Two minutes on two CPU cores. With data and a checkpoint of
# your own, leave out the drawing and the second step.

# %%
from pathlib import Path

from kdyolo import KDYOLO, Study, convert_coco, extract_backbone, inspect_checkpoint
from kdyolo.data.synthetic import draw_dataset

# %% [markdown]
# ## 1. Data
#
# `draw_dataset` draws discs, squares and triangles in COCO's layout. `convert_coco` is what `kdyolo convert` does:
# all of it or nothing.

# %%
root = draw_dataset(Path("shapes"), {"train": 160, "val": 48}, imgsz=96)
data = convert_coco(root, "datasets/shapes")
print(data.table())

# %% [markdown]
# ## 2. A backbone
#
# A distillation would give one. Here a detector is trained on the same images, and its backbone taken out.

# %%
fast = {"data": str(data.yaml), "imgsz": 96, "batch": 8, "device": "cpu", "plots": False, "verbose": False,
        "optimizer": "AdamW", "lr0": 0.002, "warmup_epochs": 1.0}  # fmt: skip
teacher = KDYOLO("kdyolov8n.yaml", random_init=True)
teacher.train(epochs=8, work_dir="runs/teacher", val=False, **fast)
backbone = extract_backbone("runs/teacher", "backbone.safetensors")
print(inspect_checkpoint(backbone).table())

# %% [markdown]
# ## 3. One training
#
# Frozen for two epochs, then everything trains. What is frozen equals the file bit for bit.

# %%
model = KDYOLO(backbone=backbone)
model.train(epochs=4, freeze_epochs=2, work_dir="runs/first", **fast)
metrics = model.val(data=str(data.yaml), imgsz=96, device="cpu", plots=False, verbose=False, save_dir="runs/first-val")
print(f"official AP {metrics.coco.ap:.3f}, AP50 {metrics.coco.ap50:.3f}")

# %% [markdown]
# ## 4. A study
#
# Two arms, two seeds each; three or more are better. With one seed, both arms see the same images in the same order
# and start from the same head.

# %%
study_file = Path("study.yaml")
study_file.write_text(
    f"""
name: shapes
data: {data.yaml}
base: {{epochs: 3, imgsz: 96, batch: 8, optimizer: AdamW, lr0: 0.002, warmup_epochs: 1.0, plots: false, verbose: false}}
arms:
  random: {{random_init: true, model: kdyolov8n.yaml}}
  frozen: {{backbone: backbone.safetensors, freeze: 3}}
seeds: [0, 1]
devices: [cpu]
baseline: random
"""
)
study = Study.from_file(study_file)
study.plan()

# %%
results = study.run()

# %% [markdown]
# ## 5. The verdict

# %%
comparison = study.comparison(out="report")
print(comparison.table())

# %% [markdown]
# `report/report.html` is the same as a page. The backbone has seen these very images, so a gain is no wonder here: it
# only shows that what it learned arrives in the detector. Whether *your* backbone helps, on *your* data, takes your
# study.
