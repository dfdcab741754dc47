# Sourced by the scripts beside it: finds or makes the virtual environment, and installs the package into it.
# VENV names another folder; PYTHON another interpreter (3.10 to 3.13); EXTRAS the extras, e.g. EXTRAS=gpu.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=${VENV:-$repository/.venv}
case $VENV in /*) ;; *) VENV=$PWD/$VENV ;; esac # the scripts go to the repository's folder

make_environment() { # EXTRAS
  local python=${PYTHON:-python3} extras=$1
  if ! "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))'; then
    echo "error: $python is $("$python" --version 2>&1); set PYTHON to a Python 3.10 to 3.13" >&2
    exit 2
  fi
  if [ ! -x "$VENV/bin/python" ]; then
    echo "Making the virtual environment $VENV"
    if ! "$python" -m venv "$VENV"; then
      rm -rf "$VENV"
      echo "error: cannot make $VENV; on Debian and Ubuntu: apt install python3-venv" >&2
      exit 2
    fi
  fi
  # The stamp says which requirements are installed, so that a second start is quick.
  local stamp="$VENV/installed-$(cat "$repository/setup.py" | cksum | tr ' ' '-')-$extras"
  if [ ! -e "$stamp" ]; then
    echo "Installing the package and what it needs (TensorFlow is 600 MB)"
    "$VENV/bin/python" -m pip install --disable-pip-version-check -q --upgrade pip  # older ones search for ever
    "$VENV/bin/python" -m pip install --disable-pip-version-check --progress-bar on -q -e "$repository[$extras]"
    touch "$stamp"
  fi
}
