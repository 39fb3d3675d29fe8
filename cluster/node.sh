#!/usr/bin/env bash
# bash ~/semples-tune/cluster/node.sh /shared        cluster.yaml and cluster/local.yaml call it on every node
#
# Puts the package and all that it needs into ~/venv. The first node, the head, installs it (some 7 GB, a quarter of an
# hour) and leaves it packed in the shared folder; later nodes unpack that, in a minute or two. Other requirements or
# another Python are another archive. The code itself is used from ~/semples-tune, as it is there.
#
# Whoever may write to the archive gives programs to every node: only the user who made it may.
set -euo pipefail

shared=$1
clone=$(cd "$(dirname "$0")/.." && pwd)
decides() { cat "$clone/pyproject.toml" "$clone/constraints.txt"; python3 --version; uname -m; echo "$clone $HOME"; }
key=$(decides | sha256sum | cut -c -16)
packed=$shared/venvs/$key.tar

if [[ ! -e ~/venv/$key ]]; then  # written last: what an interrupted call leaves is made anew
  rm -rf ~/venv
  if [[ -O $packed ]]; then
    tar -xf "$packed" -C ~
  else
    python3 -m venv ~/venv
    ~/venv/bin/pip install --quiet --constraint "$clone/constraints.txt" --editable "$clone[postgresql,s3]"
    (umask 077; mkdir -p "$shared/venvs"; tar -cf "$packed.$HOSTNAME.$$" -C ~ venv)
    mv "$packed.$HOSTNAME.$$" "$packed"
  fi
  touch ~/venv/"$key"
fi

# Ray's commands and whoever logs in; weights are downloaded once, and not by each node
line="export PATH=\"\$HOME/venv/bin:\$PATH\" HF_HOME=$shared/weights/huggingface TORCH_HOME=$shared/weights/torch"
grep -qxF "$line" ~/.bashrc 2> /dev/null || echo "$line" >> ~/.bashrc
