kubectl create --filename=- <<'END_OF_DOCUMENT'
apiVersion: batch/v1
kind: Job
metadata:
  name: "screen"
  labels:
    app.kubernetes.io/name: mae-jax
    app.kubernetes.io/instance: "screen"
    kueue.x-k8s.io/queue-name: "night"
    kueue.x-k8s.io/priority-class: "low"
spec:
  suspend: true  # Kueue starts it
  ttlSecondsAfterFinished: 604800
  # One pod per task, none needs another: mae-jax reads its task index from JOB_COMPLETION_INDEX.
  completionMode: Indexed
  completions: 8
  parallelism: 8
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
        runAsNonRoot: true
        runAsUser: 10001
        runAsGroup: 10001
        fsGroup: 10001  # so that volumes can be written
        fsGroupChangePolicy: OnRootMismatch
        seccompProfile:
          type: RuntimeDefault
      tolerations:
      - key: nvidia.com/gpu
        operator: Exists
        effect: NoSchedule
      containers:
      - name: mae-jax
        image: "us-docker.pkg.dev/lab/mae-jax/cuda12"
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
        - "/share/runs/screen"
        - "--num-tasks"
        - "8"
        securityContext:
          allowPrivilegeEscalation: false
          capabilities:
            drop: [ALL]
        resources:
          requests:
            cpu: "2"
            memory: "8Gi"
          limits:
            cpu: "16"
            memory: "128Gi"
            nvidia.com/gpu: 1
        volumeMounts:
        - name: shared-memory
          mountPath: /dev/shm  # 64 MiB by default: too little for the processes that decode images
        - name: volume-1
          mountPath: "/share"
      volumes:
      - name: shared-memory
        emptyDir:
          medium: Memory
          sizeLimit: "16Gi"
      - name: volume-1
        persistentVolumeClaim:
          claimName: "share"
END_OF_DOCUMENT
