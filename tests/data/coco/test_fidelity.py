"""What the converter's options write, against Ultralytics' converter, its data set class and pycocotools."""

import numpy as np

MASK = np.zeros((50, 100), dtype=np.uint8)


MASK[10:30, 20:60] = 1


MASK[35:45, 70:80] = 1
