"""Data: random-access sources, the table of data sets, and the pipelines that make host batches of them."""

from deepmodels.data.array_record import ArrayRecordSource as ArrayRecordSource
from deepmodels.data.array_record import write_array_record as write_array_record
from deepmodels.data.datasets import DATASETS as DATASETS
from deepmodels.data.datasets import Dataset as Dataset
from deepmodels.data.datasets import create as create
from deepmodels.data.idx import read_idx as read_idx
from deepmodels.data.images import ImageFolderSource as ImageFolderSource
from deepmodels.data.images import decode_image as decode_image
from deepmodels.data.images import preprocess as preprocess
from deepmodels.data.pipeline import batch_records as batch_records
from deepmodels.data.pipeline import batches as batches
from deepmodels.data.pipeline import evaluation_batches as evaluation_batches
from deepmodels.data.pipeline import position as position
from deepmodels.data.sources import ArraySource as ArraySource
from deepmodels.data.sources import Source as Source
from deepmodels.data.sources import StyledSource as StyledSource
from deepmodels.data.sources import SubsetSource as SubsetSource
from deepmodels.data.sources import UnpairedSource as UnpairedSource
from deepmodels.data.sources import gather as gather
from deepmodels.data.sources import split_validation as split_validation
from deepmodels.data.sources import without as without
from deepmodels.data.text import TextSource as TextSource
from deepmodels.data.tfds import TfdsSource as TfdsSource
