from zsad.data.catalog import dataset_record as dataset_record
from zsad.data.catalog import list_datasets as list_datasets
from zsad.data.checking import check_datasets as check_datasets
from zsad.data.folder import open_dataset as open_dataset
from zsad.data.folder import open_datasets as open_datasets
