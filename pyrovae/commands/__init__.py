"""Commands of the command line beside train, evaluate and compare, and what its parser has to know."""

from pyrovae.commands.doctor import Doctor
from pyrovae.commands.listing import List
from pyrovae.commands.parsing import configured, registry_of_parts
from pyrovae.commands.sweep import Sweep

__all__ = ["Doctor", "List", "Sweep", "configured", "registry_of_parts"]
