#!/bin/sh
# Makes a Python environment for the client tests in the folder $1 from the packages of the file $2 beside this script, unless it
# is there: sh make_venv.sh FOLDER [requirements.txt]
set -e
here=$(cd "$(dirname "$0")" && pwd)
packages="$here/${2:-requirements.txt}"
if cmp -s "$packages" "$1/made_from.txt"; then
    exit 0
fi
python3 -m venv "$1"
"$1/bin/python" -m pip install --quiet --disable-pip-version-check -r "$packages"
cp "$packages" "$1/made_from.txt"
