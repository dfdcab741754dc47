#!/usr/bin/env bash
# What every task of a SLURM step runs: the command, which reads a copy of the data set on the node's own disk.
#   slurm_task.sh DATA_DIR COMMAND...      an empty DATA_DIR: no copy
#   slurm_task.sh DATA_DIR                 the copy alone, for the tasks of the step to come
# The copy is made where $SLURM_TMPDIR or $TMPDIR is another disk with room. The tasks of a node share it, of several
# jobs too, and the last one removes it.
set -euo pipefail

stopped=0
# For the command, which gets them too, and whose exit code must get out.
trap 'stopped=138' USR1
trap 'stopped=143' TERM

data_dir=$1 only_copy=$(($# == 1)) command=("${@:2}") copy='' name=${SLURMD_NODENAME:-$HOSTNAME}

find_place() { # sets copy to the path that the copy has or will have, or to nothing
  local root=${SLURM_TMPDIR:-${TMPDIR:-}} bytes free
  if [ -z "$data_dir" ] || [ -z "$root" ] || [ ! -d "$root" ] || [ ! -w "$root" ]; then return; fi
  if [ ! -f "$data_dir/dataset.json" ] || [ "$(stat -Lc %d "$data_dir")" = "$(stat -Lc %d "$root")" ]; then return; fi
  copy=$root/tl_distributed-$UID-$(sha256sum "$data_dir/dataset.json" | cut -c 1-16)
  if [ -d "$copy" ]; then return; fi
  if ! bytes=$(du -sbL "$data_dir" | cut -f 1) || ! free=$(df --output=avail -B 1 "$root" | tail -n 1); then
    echo "$name: no copy of $data_dir: its size, or the room in $root, cannot be told; it is read where it is" >&2
    copy=
  elif [ "$free" -lt $((bytes + bytes / 10)) ]; then
    echo "$name: $root has no room for a copy of $data_dir ($bytes bytes); it is read where it is"
    copy=
  fi
}

make_copy() { # under the lock
  local began=$SECONDS
  rm -rf "$copy".part*
  # What links stand for, and with rights of its own: a folder that can only be read could not be removed again.
  if cp -rL --no-preserve=mode "$data_dir" "$copy.part$$" && [ "$stopped" -eq 0 ]; then
    mv "$copy.part$$" "$copy"
    echo "$name: copied $data_dir to $copy in $((SECONDS - began)) s"
  else
    rm -rf "$copy.part$$"
    return 1
  fi
}

has_no_locks() { # EXIT_CODE of flock: no signal's, but the file system's refusal (65, 71), or there is no flock (127)
  if [ "$1" -gt 128 ]; then return 1; fi
  echo "$name: the file system of $copy has no locks, or this machine no flock (exit code $1)" >&2
  rm -f "$copy.lock"
}

hold_copy() { # makes the copy if there is none, and keeps others from removing it; 1: there can be none
  while [ "$stopped" -eq 0 ]; do
    exec 9>>"$copy.lock"
    # Shared by all who read; it is waited for while another makes the copy.
    flock -s 9 || { if has_no_locks $?; then return 1; else continue; fi; } # a signal
    # Whoever removes the copy removes the lock too: it may be gone by now.
    if [ "$copy.lock" -ef /dev/fd/9 ]; then
      if [ -d "$copy" ]; then return 0; fi
      # One of those that are here gets it, and lets go of the other; to wait would be to wait for the end of readers.
      if flock -n -x 9 && [ "$copy.lock" -ef /dev/fd/9 ] && [ ! -d "$copy" ] && ! make_copy; then return 1; fi
    fi
  done
  return 1
}

release_copy() { # what cannot be removed must not change the exit code
  if [ -n "$copy" ] && flock -n -x 9; then rm -rf "$copy" "$copy.lock" || true; fi
}

find_place
if [ -n "$copy" ]; then
  if [ "$only_copy" -eq 0 ]; then trap release_copy EXIT; fi
  if hold_copy; then
    command+=("--data_copy_dir=$copy")
  else
    echo "$name: no copy of $data_dir; it is read where it is" >&2
  fi
fi
if [ "$stopped" -ne 0 ] || [ "$only_copy" -eq 1 ]; then exit "$stopped"; fi

{ # Read as a whole before the command begins: this file may have changed when it ends, by git pull say.
  code=0
  "${command[@]}" 9>&- || code=$?
  # srun ends with the highest code of the tasks, which must not hide what the others say of the one that is lost.
  if [ "$code" -eq 137 ]; then
    echo "error: the command was killed on $name (SIGKILL); out of memory?" >&2
    code=1
  fi
  exit "$code"
}
