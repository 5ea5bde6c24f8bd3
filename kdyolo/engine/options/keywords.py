"""Keywords of Python calls with their types, so that editors complete them and type checkers check them.

Printed by scripts/print_keywords.py from the declared options and from Ultralytics' defaults, not written by hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypedDict


class UltralyticsKeywords(TypedDict, total=False):
    """Ultralytics' own settings."""

    task: str  # YOLO task, i.e. detect, segment, semantic, depth, classify, pose, obb
    mode: str  # YOLO mode, i.e. train, val, predict, export, track, benchmark
    model: str | Path | None  # path to model file, i.e. yolo26n.pt or yolo26n.yaml
    data: str | Path | None  # path to dataset file or classification directory/name
    epochs: int  # number of epochs to train for
    time: float | None  # max hours to train; overrides epochs if set
    patience: int  # early stop after N epochs without val improvement
    batch: int | float  # batch size as int (e.g. 16), -1 for AutoBatch, or float in (0.0, 1.0) for GPU memory fraction
    imgsz: int | list[Any] | tuple[Any, ...]  # train/val use int (square); predict/export may use [h,w]
    save: bool  # save train checkpoints and predict results
    save_period: int  # save checkpoint every N epochs; disabled if < 1
    cache: bool | str  # cache images in RAM (True/'ram') or on 'disk' to speed dataloading; False disables
    device: int | str | list[Any] | tuple[Any, ...] | None  # device: 0/[0,1] CUDA, 'npu:0' Ascend, 'xpu:0' Intel, 'cp …
    workers: int  # dataloader workers (per RANK if DDP)
    project: str | Path | None  # project name for results root
    name: str | None  # experiment name or export hardware target
    exist_ok: bool  # overwrite existing 'project/name' if True
    pretrained: bool | str | Path  # use pretrained weights (bool) or load weights from path (str)
    cls_remap: bool  # when fine-tuning across datasets, remap pretrained cls head rows by class-name match
    optimizer: str  # optimizer: SGD, MuSGD, Adam, Adamax, AdamW, NAdam, RAdam, RMSProp, or auto
    verbose: bool  # print verbose logs
    seed: int  # random seed for reproducibility
    deterministic: bool  # enable deterministic ops; reproducible but may be slower
    single_cls: bool  # treat all classes as a single class
    rect: bool  # rectangular batches for train; rectangular batching for val when mode='val'
    cos_lr: bool  # cosine learning rate scheduler
    close_mosaic: int  # disable mosaic augmentation for final N epochs (0 to keep enabled)
    resume: bool | str | Path  # resume training from last checkpoint in the run dir
    amp: bool | str  # train precision: True/'fp16' (AMP check), 'bf16', or False/'fp32'; AMP uses FP16 train validation
    fraction: float | int | list[Any] | tuple[Any, ...]  # train ratio/count or split values; 1 = all, integer >1 = co …
    profile: bool  # profile ONNX/TensorRT speeds during training for loggers
    freeze: int | list[Any] | tuple[Any, ...] | None  # freeze first N layers (int), or specific layer indices or modu …
    multi_scale: float  # multi-scale range as a fraction of imgsz; sizes are rounded to stride multiples
    compile: bool | str  # enable torch.compile() backend='inductor'; True="default", False=off, or "default|reduce-ov …
    channels_last: bool | None  # auto-enable for non-Windows CUDA training on PyTorch 1.11+ and supported x86 CPU inf …
    overlap_mask: bool  # merge instance masks into one mask during training (segment only)
    mask_ratio: int  # training mask downsample ratio (segment only), does not change predicted mask resolution
    dropout: float  # dropout for classification head (classify only)
    val: bool  # run validation/testing during training
    split: str  # dataset split to evaluate: 'val', 'test' or 'train'
    save_json: bool  # save COCO JSON (detect/segment/pose), compute detect size metrics, or save semantic PNG masks
    conf: float | None  # confidence threshold; defaults: predict=0.25, val=0.001 (0.01 for obb)
    iou: float  # IoU threshold used for NMS
    max_det: int  # maximum number of detections per image
    quantize: int | str | None  # precision: predict/val 16/fp16 or 32/fp32/None sets pt/torchscript compute (FP32 on …
    dnn: bool  # use OpenCV DNN for ONNX inference
    plots: bool  # save plots and images during train/val
    nms: bool | None  # None: external NMS (default); True: embed NMS on export; False: NMS-free head if available
    vid_stride: int  # read every Nth frame for video sources
    stream_buffer: bool  # True buffers all frames; False keeps the most recent frame for low-latency streams
    visualize: bool  # save class activation heatmaps (predict) or visualize TP/FP/FN confusion (val)
    augment: bool  # apply test-time augmentation during prediction
    agnostic_nms: bool  # class-agnostic NMS
    classes: int | list[int] | None  # filter by class id(s), e.g. 0 or [0,2,3]
    retina_masks: bool  # use high-resolution segmentation masks (segment)
    embed: list[int] | None  # return feature embeddings from given layer indices
    show: bool  # show images/videos in a window if supported
    save_frames: bool  # save individual frames from video predictions
    save_txt: bool  # save results as .txt files (xywh format)
    save_conf: bool  # save confidence scores with results
    save_crop: bool  # save cropped prediction regions to files
    show_labels: bool  # draw class labels on images, e.g. 'person'
    show_conf: bool  # draw confidence values on images, e.g. '0.99'
    show_boxes: bool  # draw bounding boxes on images
    line_width: int | None  # line width of boxes; auto-scales with image size if not set
    format: str  # target format, e.g. torchscript|onnx|openvino|engine|coreml|coreai|saved_model|pb|edgetpu|litert|pa …
    optimize: bool  # DEEPX only; higher compiler optimization (slower compile, faster inference)
    dynamic: bool  # dynamic shapes for torchscript, onnx, openvino, engine, coreml, mnn; enable variable image sizes
    simplify: bool  # supported ONNX-based exports (see export table); simplify intermediate ONNX graph
    opset: int | None  # supported ONNX-based exports (see export table); intermediate ONNX opset version
    workspace: float | None  # engine (TensorRT) only; workspace size in GiB, e.g. 4
    lr0: float  # initial learning rate (SGD=1e-2, Adam/AdamW=1e-3)
    lrf: float  # final LR fraction; final LR = lr0 * lrf
    momentum: float  # SGD momentum or Adam beta1
    weight_decay: float  # weight decay (L2 regularization)
    warmup_epochs: float  # warmup epochs (fractions allowed)
    warmup_momentum: float  # initial momentum during warmup
    warmup_bias_lr: float  # bias learning rate during warmup
    distill_model: str | None  # path to teacher model for knowledge distillation
    dis: float  # distillation loss weight
    box: float  # box loss gain
    cls: float  # classification loss gain
    cls_pw: float  # class weights power for handling class imbalance (0.0=disable, 1.0=full inverse frequency)
    dfl: float  # box distance loss gain (DFL when reg_max > 1, L1 on DFL-free YOLO26)
    pose: float  # pose loss gain (pose tasks)
    kobj: float  # keypoint objectness loss gain (pose tasks)
    rle: float  # rle loss gain (pose tasks)
    angle: float  # oriented angle loss gain (obb tasks)
    dlog: float  # depth log (SILog) loss gain (depth tasks)
    dgrad: float  # depth gradient loss gain (depth tasks)
    dlam: float  # depth SILog variance focus: 1.0=scale-invariant, 0.0=log-RMSE (depth tasks)
    nbs: int  # nominal batch size; gradients accumulate over round(nbs / batch) batches per optimizer step
    hsv_h: float  # HSV hue augmentation fraction
    hsv_s: float  # HSV saturation augmentation fraction
    hsv_v: float  # HSV value (brightness) augmentation fraction
    degrees: float  # rotation degrees (+/-)
    translate: float  # translation fraction (+/-)
    scale: float | tuple[float, float]  # scale gain (+/-) as float, or explicit (min, max) tuple
    shear: float  # shear degrees (+/-)
    perspective: float  # perspective fraction (0–0.001 typical)
    flipud: float  # vertical flip probability
    fliplr: float  # horizontal flip probability
    bgr: float  # RGB↔BGR channel swap probability
    mosaic: float  # mosaic augmentation probability
    mixup: float  # MixUp augmentation probability
    cutmix: float  # CutMix augmentation probability
    copy_paste: float  # segment/semantic/obb copy-paste fraction of eligible objects
    copy_paste_mode: str  # copy-paste strategy for segment/semantic/obb: flip or mixup
    auto_augment: str  # classification auto augmentation policy: randaugment, autoaugment, augmix
    erasing: float  # random erasing probability for classification (0.0–1.0)
    cfg: str | None  # path to a config.yaml that overrides defaults
    tracker: str  # tracker config: botsort.yaml, bytetrack.yaml, ocsort.yaml, deepocsort.yaml, fasttrack.yaml, trackt …
    save_dir: str | Path  # folder of the results itself, in place of project and name
    augmentations: list[Any]  # transforms of Albumentations, in place of Ultralytics' own choice


class TrainKeywords(UltralyticsKeywords, total=False):
    """Settings of a training: kdyolo's, Ultralytics'."""

    backbone: str | Path | None  # Distillation checkpoint (.pt, .pth, .safetensors) to inject.
    weights: str | Path | None  # Ultralytics .pt the detector starts from, e.g. yolov8s.pt.
    random_init: bool  # Say explicitly that the run starts random: a baseline.
    allow_partial: bool  # Accept a checkpoint that does not fill the backbone.
    bn_eps: float | None  # BatchNorm epsilon of the backbone, if the recognised one is wrong.
    input_norm: str | None  # Images the backbone knows: 0-1, imagenet, or MEANS/STDS.
    key_map: str | Path | None  # YAML with the names of an unknown checkpoint.
    trust: bool  # Unpickle checkpoints completely: RUNS ANY CODE that they bring.
    freeze_epochs: int | Literal["all"]  # Freeze the backbone in epochs 1…N and train it from N+1 on; 0 (default) nev …
    unfreeze_stages: str | None  # Thaw part by part, deepest first: "10:p5,20:p4,30:all".
    backbone_lr: float  # Learning rate of the backbone as a factor of the head's (default 1).
    thaw_warmup: float  # Epochs in which a thawed part reaches its rate (default 1).
    freeze_bn: Literal["with-backbone", "always"]  # Until when BatchNorm stands still.
    resize: Literal["letterbox", "stretch"]  # Keep the aspect ratio (default) or not.
    recipe: str  # Training recipe: coco (default), coco-mosaic, or a YAML file.
    coco_eval_period: int  # Official COCO metrics in results.csv every N epochs. Default: 0, at the end only.
    run_download: bool  # Show, then run what the data set YAML has under 'download', if images are missing.
    work_dir: str | Path | None  # The run folder itself. Default: runs/detect/train, train-2, …
