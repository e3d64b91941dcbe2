aws batch register-job-definition --region=us-east-1 --cli-input-json=file:///dev/stdin <<'END_OF_DOCUMENT'
{
  "jobDefinitionName": "screen",
  "type": "container",
  "containerProperties": {
    "image": "lab/mae-jax:cuda12",
    "command": [
      "embed",
      "--encoder",
      "/share/runs/vitl8/model",
      "--index",
      "/share/index.parquet",
      "--batch-size",
      "256",
      "--out",
      "s3://lab/embeddings/screen",
      "--num-tasks",
      "64"
    ],
    "environment": [
      {
        "name": "MAE_JAX_TIMEOUT",
        "value": "30"
      }
    ],
    "resourceRequirements": [
      {
        "type": "VCPU",
        "value": "8"
      },
      {
        "type": "MEMORY",
        "value": "30720"
      },
      {
        "type": "GPU",
        "value": "1"
      }
    ],
    "linuxParameters": {
      "sharedMemorySize": 15360
    }
  },
  "retryStrategy": {
    "attempts": 10,
    "evaluateOnExit": [
      {
        "onExitCode": "2",
        "action": "EXIT"
      },
      {
        "onExitCode": "130",
        "action": "EXIT"
      },
      {
        "onReason": "*",
        "action": "RETRY"
      }
    ]
  }
}
END_OF_DOCUMENT
aws batch submit-job \
  --region=us-east-1 \
  --job-name=screen \
  --job-queue=gpus \
  --job-definition=screen \
  --array-properties=size=64
