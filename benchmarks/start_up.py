"""What does it cost to import gradscope, and to ask its command line for help?

Fresh processes, in rounds, CPU seconds (user + system) and the number of modules loaded.

    python benchmarks/start_up.py --rounds 5
"""

import argparse
import resource
import statistics
import subprocess
import sys

CONTENDERS = {
    "bare interpreter": "pass",
    "import torch": "import torch",
    "import gradscope": "import gradscope",
    "import gradscope, name a study": "import gradscope; gradscope.lesion_study",
    "gradscope --version": "import gradscope.cli; gradscope.cli.main(['--version'])",
    "gradscope --help": "import gradscope.cli; gradscope.cli.main(['--help'])",
}


def cpu_seconds(code: str) -> tuple[float, int]:
    """CPU seconds of one fresh process that runs `code`, and the modules it loaded."""
    told = f"import sys\n{code}\nprint(len(sys.modules), file=sys.stderr)"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, int(process.stderr.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    times: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    modules: dict[str, int] = {}
    for _ in range(rounds):
        for name, code in CONTENDERS.items():
            seconds, modules[name] = cpu_seconds(code)
            times[name].append(seconds)
    torch_time = statistics.median(times["import torch"])
    print(f"{'what':<34}{'CPU s':>8}{'x torch':>9}{'modules':>9}   (median of {rounds})")
    for name in CONTENDERS:
        median = statistics.median(times[name])
        print(f"{name:<34}{median:>8.3f}{median / torch_time:>9.2f}{modules[name]:>9}")


if __name__ == "__main__":
    main()
