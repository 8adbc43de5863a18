#!/usr/bin/env bash
# All that is to be known of a GPU, in one command, under ten minutes, without internet:
#
#     benchmarks/gpu.sh [FOLDER] [--smoke]
#
# FOLDER is where the tables go, results/gpu-NAME by default. --smoke runs all parts in small, on a CPU too.
# PYTHON is an interpreter with torch. WHEELS is a folder with wheels of what else is missing; nothing is installed into
# PYTHON itself, but into a virtual environment that sees its packages.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
FOLDER=""
SMOKE=()
for argument in "$@"; do
    case $argument in
        --smoke) SMOKE=(--smoke) ;;
        -*) echo "gpu.sh: unknown option $argument; it takes a folder and --smoke" >&2; exit 2 ;;
        *) FOLDER=$argument ;;
    esac
done

if ! "$PYTHON" -c "import torch" 2> /dev/null; then
    echo "gpu.sh: $PYTHON has no torch; set PYTHON to one that has" >&2
    exit 2
fi

missing() {
    "$1" - << 'END'
from importlib.util import find_spec
needed = "click filelock numpy optuna pandas pluggy pyarrow safetensors scipy sqlalchemy tabulate tokenizers tqdm"
print(" ".join(name for name in needed.split() if find_spec(name) is None))
END
}

lacking=$(missing "$PYTHON")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ -n "$lacking" ]; then
    if [ -z "${WHEELS:-}" ]; then
        echo "gpu.sh: $PYTHON lacks: $lacking" >&2
        echo "gpu.sh: set WHEELS to a folder with their wheels: pip download -d FOLDER $lacking" >&2
        exit 2
    fi
    "$PYTHON" -m venv --system-site-packages "$work/venv"
    PYTHON=$work/venv/bin/python
    # shellcheck disable=SC2086
    "$PYTHON" -m pip install -q --no-index --find-links "$WHEELS" $lacking
fi

# As an editable install: both source folders on the path, and the entry points by which plugins are found.
"$PYTHON" - "$work" << 'END'
import sys, tomllib
from pathlib import Path
project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
info = Path(sys.argv[1], "benchkit-0.dist-info")
info.mkdir()
(info / "METADATA").write_text("Metadata-Version: 2.1\nName: benchkit\nVersion: 0\n")
points = "".join(f"{name} = {module}\n" for name, module in project["entry-points"]["benchkit"].items())
(info / "entry_points.txt").write_text("[benchkit]\n" + points)
END
installed=$("$PYTHON" -c "from importlib.metadata import entry_points as e; print(len(e(group='benchkit')))")
export PYTHONPATH="$PWD:$PWD/plugins${PYTHONPATH:+:$PYTHONPATH}"
if [ "$installed" = 0 ]; then
    export PYTHONPATH="$work:$PYTHONPATH"
fi

name=$("$PYTHON" -c "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else 'cpu')")
FOLDER=${FOLDER:-results/gpu-$(echo "$name" | tr ' /' '--')}
status=0
"$PYTHON" benchmarks/gpu.py "$FOLDER" "${SMOKE[@]}" || status=$?
# The tests that need a GPU, where there is one and pytest too.
if "$PYTHON" -c "import torch, pytest, sys; sys.exit(not torch.cuda.is_available())" 2> /dev/null; then
    "$PYTHON" -m pytest -q -p no:cacheprovider tests/test_fast_paths.py > "$FOLDER/tests.txt" 2>&1 || status=1
    tail -n 1 "$FOLDER/tests.txt"
fi
echo "written to $FOLDER"
exit $status
