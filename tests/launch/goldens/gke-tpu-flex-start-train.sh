kubectl create --filename=- <<'END_OF_DOCUMENT'
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: "vitl8"
  labels:
    app.kubernetes.io/name: mae-jax
    app.kubernetes.io/instance: "vitl8"
    kueue.x-k8s.io/queue-name: "multislice"
  annotations:
    # One job per slice, and nothing else on it.
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  suspend: true  # Kueue starts it
  ttlSecondsAfterFinished: 604800
  # All pods compute each step together: if one fails, all restart from the last checkpoint.
  failurePolicy:
    maxRestarts: 50
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
        completions: 2
        parallelism: 2
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
            automountServiceAccountToken: false  # no process calls the cluster's API
            securityContext:
              runAsUser: 0
              runAsGroup: 0
              seccompProfile:
                type: RuntimeDefault
            nodeSelector:
              "cloud.google.com/gke-flex-start": "true"
              "cloud.google.com/gke-tpu-accelerator": "tpu7x"
              "cloud.google.com/gke-tpu-topology": "2x2x2"
            tolerations:
            - key: google.com/tpu
              operator: Exists
              effect: NoSchedule
            containers:
            - name: mae-jax
              image: "us-docker.pkg.dev/lab/mae-jax/tpu"
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
              - name: volume-1
                mountPath: "/share"
            volumes:
            - name: shared-memory
              emptyDir:
                medium: Memory
                sizeLimit: "64Gi"
            - name: volume-1
              persistentVolumeClaim:
                claimName: "share"
END_OF_DOCUMENT
