"""Augmentation of batches on the device: pure functions of a key and a batch."""

from deepmodels.augment.images import AUGMENTATIONS as AUGMENTATIONS
from deepmodels.augment.images import color_jitter as color_jitter
from deepmodels.augment.images import create as create
from deepmodels.augment.images import cutout as cutout
from deepmodels.augment.images import normalize as normalize
from deepmodels.augment.images import random_crop as random_crop
from deepmodels.augment.images import random_flip as random_flip
