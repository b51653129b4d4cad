"""Data sets on the host: where they come from, and which examples are used for what.

`load` finds a data set by name (the embedded digits, TFDS, an .npz file) and returns
a `Dataset` of uint8 images in the original order; `from_arrays` makes one of your own
arrays; `evaluation` and `validation` choose examples of it by position.
"""

from rfm.data import extra as extra
from rfm.data.dataset import Dataset as Dataset
from rfm.data.dataset import from_arrays as from_arrays
from rfm.data.npy import write as write
from rfm.data.sources import digits as digits
from rfm.data.sources import load as load
from rfm.data.splits import Examples as Examples
from rfm.data.splits import Split as Split
from rfm.data.splits import evaluation as evaluation
from rfm.data.splits import validation as validation
from rfm.data.tfds import prepare as prepare
