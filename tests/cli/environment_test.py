"""What the command line arranges for its process."""

import subprocess
import sys


def test_matplotlibs_first_start_is_not_the_users_concern():
    """Where its font cache takes long to build it warns on stderr, where nothing is to be."""
    code = """
from rfm.cli.environment import arrange

arrange()
import logging

logging.getLogger("matplotlib.font_manager").warning("building the font cache")
logging.getLogger("matplotlib").warning("something else")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "something else\n"
