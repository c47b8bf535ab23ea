"""Every kind of file that the library reads."""

from data_kinds import DATA_KINDS
from run_kinds import RUN_KINDS

KINDS = {**DATA_KINDS, **RUN_KINDS}
