"""Exchange with other tools.

Networks are exchanged as NIR, events as tonic's structured arrays, parameters as plain files.
"""

from snnjax.exchange.nir_export import NirWriter, nir_writer, to_nir
from snnjax.exchange.nir_files import load_nir, save_nir
from snnjax.exchange.nir_import import from_nir
from snnjax.exchange.parameters import load_parameters, save_parameters
from snnjax.exchange.tonic import from_tonic, to_tonic

__all__ = [
    "NirWriter",
    "from_nir",
    "from_tonic",
    "load_nir",
    "load_parameters",
    "nir_writer",
    "save_nir",
    "save_parameters",
    "to_nir",
    "to_tonic",
]
