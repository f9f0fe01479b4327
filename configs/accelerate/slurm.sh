#!/usr/bin/env bash
# Several machines under Slurm, here two with eight GPUs: starts a launcher on each, which starts one process per GPU.
#   sbatch --nodes 2 configs/accelerate/slurm.sh --config configs/asr/wav2vec2-large-lv60_960h.yaml
# To shard the model, add --export ALL,LAUNCH=configs/accelerate/multi_node_fsdp.yaml.
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120   # save a checkpoint two minutes before the time limit
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
machines=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
export LAUNCH=${LAUNCH:-configs/accelerate/multi_node.yaml} MAIN=${machines%%$'\n'*}
# shellcheck disable=SC2016 - each machine has its own SLURM_PROCID
srun --kill-on-bad-exit=1 bash -c 'exec accelerate launch --config_file "$LAUNCH" \
    --num_machines "$SLURM_NNODES" --num_processes $((SLURM_NNODES * SLURM_GPUS_ON_NODE)) \
    --machine_rank "$SLURM_PROCID" --main_process_ip "$MAIN" --main_process_port $((20000 + SLURM_JOB_ID % 10000)) \
    scripts/finetune_asr.py "$@"' accelerate "$@"
