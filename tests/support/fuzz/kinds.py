"""Every kind of file that the library reads."""

from support.fuzz.data_kinds import DATA_KINDS
from support.fuzz.run_kinds import RUN_KINDS

KINDS = {**DATA_KINDS, **RUN_KINDS}
