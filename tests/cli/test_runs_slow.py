"""test_runs.py with every split."""
import test_runs
from test_runs import *  # noqa: F401,F403: the tests

if __name__ == "__main__":
    test_runs.support.main()
