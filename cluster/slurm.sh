#!/usr/bin/env bash
# sbatch cluster/slurm.sh SWEEP [KEY=VALUE or OPTION of semples-tune launch ...]
#
# A sweep on several nodes of a SLURM cluster, as one job. Before: activate the environment in which the package is
# installed (sbatch hands it on), and be in a folder that all nodes see; sweeps go into its `sweeps`, or where --out says.
# Set nodes, processors, GPUs and time below, or give them to sbatch.
#
# Five minutes before its time is up the job ends the sweep in order and goes back into the queue, where the same command
# goes on; so it does when it is preempted or a node fails. `scancel` ends it for good.
#
# The token without which nobody can run anything on the job's Ray is made once, for you alone, in your home folder,
# which all nodes see. MLflow has no server: the sweep writes its file, sweeps/mlflow.db, and `semples-tune ui` shows it,
# on the login node once the job has ended. Where your file system has no locks (some Lustre), give mlflow=http://....
#
# Tests run this file with stand-ins for SLURM's commands. SLURM 22.05 has run it on two nodes of one machine, without GPU
# and with a stand-in for the sweep; it has never been run on a SLURM cluster.
#
#SBATCH --job-name=semples-tune
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
# --exclusive: Ray on a node ends with the job that began it, and two of one user would end each other.
set -euo pipefail
sweep=${1:?give a sweep file}
shift

# Compute nodes without internet: take the # away. Before, on the login node, get the weights: the first export, then a
# `semples run` of the preset and the data of the sweep, which you interrupt when classify begins.
# export HF_HOME="$HOME/weights/huggingface" TORCH_HOME="$HOME/weights/torch"
# export HF_HUB_OFFLINE=1

export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$HOME/.semples-tune-token"
if [[ ! -s $RAY_AUTH_TOKEN_PATH ]]; then
  (umask 077; openssl rand -hex 32 > "$RAY_AUTH_TOKEN_PATH.$SLURM_JOB_ID")
  ln "$RAY_AUTH_TOKEN_PATH.$SLURM_JOB_ID" "$RAY_AUTH_TOKEN_PATH" 2> /dev/null || true  # another job was first
  rm "$RAY_AUTH_TOKEN_PATH.$SLURM_JOB_ID"
fi
# nodes start Python from a shared folder, all at once
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=600

nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=$(head -n 1 <<< "$nodes"):6379
# This script runs on the first node, and so does the sweep: it can be told here to end. A signal to the job's step would
# reach Ray's own processes, too.
driver=$(mktemp)
out_of_time= interrupted=
end_in_order() {
  interrupted=yes
  if [[ -s $driver ]]; then
    kill -TERM "$(cat "$driver")" 2> /dev/null || true  # it may have ended by itself
  else
    kill -TERM "$step"
  fi
}
trap 'out_of_time=yes; end_in_order' USR1
trap end_in_order TERM

srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --cpus-per-task="$SLURM_CPUS_PER_TASK" \
  --kill-on-bad-exit=1 --wait=0 \
  ray symmetric-run --address "$head" --min-nodes "$SLURM_JOB_NUM_NODES" --num-cpus="$SLURM_CPUS_PER_TASK" -- \
  bash -c 'echo $$ > "$0"; exec "$@"' "$driver" \
  semples-tune launch "$sweep" --address "$head" study=journal "$@" &
step=$!

while true; do
  interrupted= code=0
  wait "$step" || code=$?
  [[ $interrupted ]] || break  # a signal ends `wait`, not what is waited for
done
if [[ $code -eq 0 && ! -s $driver ]]; then
  echo "error: Ray could not be started on the first node, so the sweep did not begin" >&2
  code=1
fi
rm -f "$driver"
if [[ $out_of_time && $code -ne 0 ]]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
