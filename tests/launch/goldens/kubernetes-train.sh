kubectl create --filename=- --context=lab <<'END_OF_DOCUMENT'
# jax.distributed.initialize() lists the pods of the job.
apiVersion: v1
kind: ServiceAccount
metadata:
  name: "vitl8"
  labels:
    app.kubernetes.io/name: mae-jax
    app.kubernetes.io/instance: "vitl8"
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: "vitl8"
  labels:
    app.kubernetes.io/name: mae-jax
    app.kubernetes.io/instance: "vitl8"
rules:
- apiGroups: [""]
  resources: [pods, services]
  verbs: [get, list]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: "vitl8"
  labels:
    app.kubernetes.io/name: mae-jax
    app.kubernetes.io/instance: "vitl8"
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: "vitl8"
subjects:
- kind: ServiceAccount
  name: "vitl8"
---
# Gives each pod a host name for the others.
apiVersion: v1
kind: Service
metadata:
  name: "vitl8"
  labels:
    app.kubernetes.io/name: mae-jax
    app.kubernetes.io/instance: "vitl8"
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector:
    job-name: "vitl8"
---
apiVersion: batch/v1
kind: Job
metadata:
  name: "vitl8"
  labels:
    app.kubernetes.io/name: mae-jax
    app.kubernetes.io/instance: "vitl8"
spec:
  ttlSecondsAfterFinished: 604800
  completionMode: Indexed
  completions: 2
  parallelism: 2
  # If one pod fails, the others end too and all restart from the last checkpoint.
  backoffLimit: 100
  podFailurePolicy:
    rules:
    - action: FailJob  # wrong input: the same command would fail in the same way
      onExitCodes:
        containerName: mae-jax
        operator: In
        values: [2, 130]
    - action: Ignore  # preempted, its state saved: restarted, and no failure
      onExitCodes:
        containerName: mae-jax
        operator: In
        values: [75]
    - action: Ignore  # evicted, preempted, drained
      onPodConditions:
      - type: DisruptionTarget
        status: "True"
  template:
    metadata:
      labels:
        app.kubernetes.io/name: mae-jax
        app.kubernetes.io/instance: "vitl8"
    spec:
      subdomain: "vitl8"
      restartPolicy: Never
      terminationGracePeriodSeconds: 180  # SIGTERM saves the state
      serviceAccountName: "vitl8"
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
        - "train"
        - "--config"
        - "configs/demo.py"
        - "--config.data.index=/share/index.parquet"
        - "--workdir"
        - "/share/runs/vitl8"
        - "--distributed"
        - "--preempted-exit-code"
        - "75"
        securityContext:
          allowPrivilegeEscalation: false
          capabilities:
            drop: [ALL]
        resources:
          requests:
            cpu: "16"
            memory: "64Gi"
          limits:
            cpu: "128"
            memory: "1024Gi"
            nvidia.com/gpu: 8
        volumeMounts:
        - name: shared-memory
          mountPath: /dev/shm  # 64 MiB by default: too little for the processes that decode images
        - name: volume-1
          mountPath: "/share"
      volumes:
      - name: shared-memory
        emptyDir:
          medium: Memory
          sizeLimit: "128Gi"
      - name: volume-1
        persistentVolumeClaim:
          claimName: "share"
END_OF_DOCUMENT
