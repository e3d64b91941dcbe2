kubectl create --filename=- <<'END_OF_DOCUMENT'
apiVersion: batch/v1
kind: Job
metadata:
  name: "screen"
  labels:
    app.kubernetes.io/name: mae-jax
    app.kubernetes.io/instance: "screen"
spec:
  ttlSecondsAfterFinished: 604800
  # One pod per task, none needs another: mae-jax reads its task index from JOB_COMPLETION_INDEX.
  completionMode: Indexed
  completions: 64
  parallelism: 16
  backoffLimitPerIndex: 50
  podFailurePolicy:
    rules:
    - action: FailJob  # wrong input: the same command would fail in the same way
      onExitCodes:
        containerName: mae-jax
        operator: In
        values: [2, 130]
    - action: Ignore  # evicted, preempted, drained
      onPodConditions:
      - type: DisruptionTarget
        status: "True"
  template:
    metadata:
      labels:
        app.kubernetes.io/name: mae-jax
        app.kubernetes.io/instance: "screen"
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 180  # SIGTERM saves the state
      automountServiceAccountToken: false  # no process calls the cluster's API
      securityContext:
        runAsUser: 0
        runAsGroup: 0
        seccompProfile:
          type: RuntimeDefault
      nodeSelector:
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice"
        "cloud.google.com/gke-tpu-topology": "2x2"
      tolerations:
      - key: google.com/tpu
        operator: Exists
        effect: NoSchedule
      containers:
      - name: mae-jax
        image: "us-docker.pkg.dev/lab/mae-jax/tpu"
        # The image starts mae-jax under tini, which forwards SIGTERM.
        args:
        - "embed"
        - "--encoder"
        - "/share/runs/vitl8/model"
        - "--index"
        - "/share/index.parquet"
        - "--batch-size"
        - "256"
        - "--out"
        - "gs://lab/embeddings/screen"
        - "--num-tasks"
        - "64"
        env:
        - name: "MAE_JAX_TIMEOUT"
          value: "30"
        securityContext:
          allowPrivilegeEscalation: false
          capabilities:
            drop: [ALL]
            add: [SYS_RESOURCE]  # the TPU driver locks memory
        resources:
          requests:
            cpu: "8"
            memory: "32Gi"
          limits:
            cpu: "64"
            memory: "512Gi"
            google.com/tpu: 4
        volumeMounts:
        - name: shared-memory
          mountPath: /dev/shm  # 64 MiB by default: too little for the processes that decode images
      volumes:
      - name: shared-memory
        emptyDir:
          medium: Memory
          sizeLimit: "64Gi"
END_OF_DOCUMENT
