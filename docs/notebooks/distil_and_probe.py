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
# # Distil and probe
#
# A small student learns the feature maps of a frozen teacher, on images without labels; a probe then asks what its
# features know of objects. The teacher here is a YOLO that was trained a moment ago, so that nothing is downloaded; a
# foundation model of timm takes its place by its name. Two minutes on two CPU cores.

# %%
from pathlib import Path

from IPython.display import Image

from kdyolo import KDYOLO, convert_coco, distill, probe
from kdyolo.data.synthetic import draw_dataset

data = convert_coco(draw_dataset(Path("shapes"), {"train": 160, "val": 64}, imgsz=96), "datasets/shapes").yaml
fast = {"data": str(data), "imgsz": 96, "batch": 8, "device": "cpu", "plots": False, "verbose": False, "val": False,
        "optimizer": "AdamW", "lr0": 0.002, "warmup_epochs": 1.0}  # fmt: skip
metrics = KDYOLO("kdyolov8n.yaml", random_init=True).train(epochs=8, work_dir="runs/teacher", **fast)

# %% [markdown]
# ## Distil
#
# `kdyolo distill` in a shell. It needs images only; the labels of `shapes` are not looked at.

# %%
result = distill(
    "shapes/train", teacher="runs/teacher/weights/best.pt", model="yolov8n",
    epochs=8, batch=16, imgsz=96, device="cpu", work_dir="runs/distilled",
)  # fmt: skip
print(result.verdict)

# %% [markdown]
# The verdict compares the centred cosine of each level (0: as good as predicting the mean) with what the
# position in the image alone would give.

# %%
Image("runs/distilled/features.png", width=700)

# %% [markdown]
# ## Probe
#
# Simple classifiers on frozen features of labelled objects; a random network is always among them. Intervals are over
# images.

# %%
comparison = probe([result.backbone, "runs/teacher/weights/best.pt"], data, imgsz=96)
print(comparison.table())

# %% [markdown]
# A probe ranks backbones cheaply. It does not say which mAP a detector will reach: for that, train a few with several
# seeds.
