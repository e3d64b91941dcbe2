kubectl create --filename=- <<'END_OF_DOCUMENT'
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
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: "vitl8"
  labels:
    app.kubernetes.io/name: mae-jax
    app.kubernetes.io/instance: "vitl8"
spec:
  ttlSecondsAfterFinished: 604800
  # All pods compute each step together: if one fails, all restart from the last checkpoint.
  failurePolicy:
    maxRestarts: 20
    rules:
    - name: wrongInput
      action: FailJobSet
      onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
  - name: workers
    replicas: 1
    template:
      spec:
        completionMode: Indexed
        completions: 4
        parallelism: 4
        backoffLimit: 0  # the JobSet restarts, not the job
        podFailurePolicy:
          rules:
          - action: FailJob  # the same command would fail in the same way
            onExitCodes:
              containerName: mae-jax
              operator: In
              values: [2, 130]
        template:
          metadata:
            labels:
              app.kubernetes.io/name: mae-jax
              app.kubernetes.io/instance: "vitl8"
          spec:
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
            nodeSelector:
              "cloud.google.com/gke-accelerator": "nvidia-h100-80gb"
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
                  cpu: "100"
                  memory: "800Gi"
                limits:
                  cpu: "100"
                  memory: "800Gi"
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
