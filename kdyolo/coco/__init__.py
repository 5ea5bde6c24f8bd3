"""COCO in, Ultralytics out: read annotations, write YOLO labels and the dataset YAML, score predictions."""
