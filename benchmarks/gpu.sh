#!/usr/bin/env bash
# All that is to be known of a GPU, in one command, in five to ten minutes, without internet:
#
#     benchmarks/gpu.sh [FOLDER] [--smoke] [--only PARTS]
#
# FOLDER is where the tables go, results/gpu-NAME by default. --smoke runs all parts in small, on a CPU too. --only takes
# some of correct,H1,H2,H3,H4,H56,stacked,tests. PYTHON is an interpreter with torch. WHEELS is a folder with wheels of what else
# is missing: they are unpacked into a folder of this run alone, and PYTHON is left as it is. COMMIT names the commit where
# the folder is a copy without its history.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
FOLDER=""
OPTIONS=()
ONLY=""
while [ $# -gt 0 ]; do
    case $1 in
        --smoke) OPTIONS+=(--smoke) ;;
        --only) ONLY=${2:?gpu.sh: --only takes parts, such as H3,H56}; shift ;;
        --only=*) ONLY=${1#--only=} ;;
        -*) echo "gpu.sh: unknown option $1; it takes a folder, --smoke and --only" >&2; exit 2 ;;
        *) FOLDER=$1 ;;
    esac
    shift
done

if ! "$PYTHON" -c "import torch" 2> /dev/null; then
    echo "gpu.sh: $PYTHON has no torch; set PYTHON to one that has" >&2
    exit 2
fi

# What of pyproject's dependencies is not there, and what the unpacked ones need themselves; PYTHON's own are taken to be
# whole.
missing() {
    "$PYTHON" - "$work/site" << 'END'
import re, sys, tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

waiting = tomllib.loads(Path("pyproject.toml").read_text())["project"]["dependencies"]
unpacked, lacking = Path(sys.argv[1]), set()
while waiting:
    name = re.match(r"[\w.-]+", waiting.pop()).group().lower()
    try:
        found = distribution(name)
    except PackageNotFoundError:
        lacking.add(name)
        continue
    if Path(found.locate_file("")) == unpacked:
        waiting += [each for each in found.requires or [] if ";" not in each]  # a condition is an extra or a platform
print(" ".join(sorted(lacking)))
END
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/site" "$work/points"
export PYTHONPATH="$PWD:$PWD/plugins:$work/site${PYTHONPATH:+:$PYTHONPATH}"
if [ -n "${WHEELS:-}" ] && [ -n "$(missing)" ]; then
    # A wheel is a zip file, and PYTHON may have no pip. PYTHONPATH comes before what is installed, so that only what is
    # missing is unpacked: another numpy than torch was built for would be worse than none.
    "$PYTHON" - "$WHEELS" "$work/site" << 'END'
import sys, zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

for path in sorted(Path(sys.argv[1]).glob("*.whl")):
    try:
        version(path.name.split("-")[0].replace("_", "-"))
    except PackageNotFoundError:
        zipfile.ZipFile(path).extractall(sys.argv[2])
END
fi
lacking=$(missing)
if [ -n "$lacking" ]; then
    echo "gpu.sh: $PYTHON lacks: $lacking" >&2
    echo "gpu.sh: set WHEELS to a folder with wheels: pip download --no-deps -d FOLDER $lacking, and what they need" >&2
    exit 2
fi

# As an editable install: both source folders are on the path, and here are the entry points by which plugins are found.
if "$PYTHON" -c "from importlib.metadata import entry_points as e; import sys; sys.exit(bool(e(group='benchkit')))"; then
    "$PYTHON" - "$work/points" << 'END'
import sys, tomllib
from pathlib import Path
project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
info = Path(sys.argv[1], "benchkit-0.dist-info")
info.mkdir()
(info / "METADATA").write_text("Metadata-Version: 2.1\nName: benchkit\nVersion: 0\n")
points = "".join(f"{name} = {module}\n" for name, module in project["entry-points"]["benchkit"].items())
(info / "entry_points.txt").write_text("[benchkit]\n" + points)
END
    export PYTHONPATH="$PYTHONPATH:$work/points"
fi

name=$("$PYTHON" -c "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else 'cpu')")
FOLDER=${FOLDER:-results/gpu-$(echo "$name" | tr ' /' '--')}
# `tests` and `stacked` are parts of this script, the others are of gpu.py.
parts=$(echo ",$ONLY," | sed 's/,tests,/,/; s/,stacked,/,/; s/^,*//; s/,*$//')
tests=yes stacked=yes
if [ -n "$ONLY" ]; then
    OPTIONS+=(--only "$parts")
    case ",$ONLY," in *,tests,*) ;; *) tests="" ;; esac
    case ",$ONLY," in *,stacked,*) ;; *) stacked="" ;; esac
fi
status=0
if [ -z "$ONLY" ] || [ -n "$parts" ]; then
    "$PYTHON" benchmarks/gpu.py "$FOLDER" "${OPTIONS[@]}" || status=$?
fi
mkdir -p "$FOLDER"
if [ -n "$stacked" ] && "$PYTHON" -c "import torch, sys; sys.exit(not torch.cuda.is_available())"; then
    "$PYTHON" benchmarks/stacked.py --device cuda --seeds 4,16 > "$FOLDER/stacked.md" || status=1
fi
# The tests that need a GPU, where there is one and pytest too.
if [ -n "$tests" ] && "$PYTHON" -c "import torch, pytest, sys; sys.exit(not torch.cuda.is_available())" 2> /dev/null; then
    began=$SECONDS
    # The project's own options are for plugins of pytest that may not be there.
    OPTIONS=(-q -p no:cacheprovider -o addopts=--import-mode=importlib)
    if "$PYTHON" -c "import xdist" 2> /dev/null; then OPTIONS+=(-n 8); fi
    timeout 180 "$PYTHON" -m pytest "${OPTIONS[@]}" tests/unit/encoder/test_fast_paths.py tests/gpu/test_kernels.py \
        tests/integration/test_fixed_steps.py tests/unit/training/test_cuda_graphs.py tests/integration/test_speed.py > "$FOLDER/tests.txt" 2>&1 || status=1
    echo "tests   took $((SECONDS - began)) s: $(tail -n 1 "$FOLDER/tests.txt")"
fi
echo "written to $FOLDER in $SECONDS s"
exit $status
