# status vitl8 --queue gpus --region us-east-1
aws batch list-jobs \
  --region=us-east-1 \
  --job-queue=gpus \
  --filters=name=JOB_NAME,values=vitl8 \
  '--query=jobSummaryList[].[jobId,status,createdAt,arrayProperties.statusSummary]' \
  --output=yaml
# logs vitl8 --queue gpus --region us-east-1
aws logs tail /aws/batch/job --log-stream-name-prefix=vitl8/ --follow --region=us-east-1
# logs --process 3 vitl8 --queue gpus --region us-east-1
aws logs tail /aws/batch/job --log-stream-name-prefix=vitl8/ --follow --region=us-east-1
# stop vitl8 --queue gpus --region us-east-1
bash -c 'aws batch list-jobs \
  --region=us-east-1 \
  --job-queue=gpus \
  --filters=name=JOB_NAME,values=vitl8 \
  '"'"'--query=jobSummaryList[].jobId'"'"' \
  --output=text | xargs --no-run-if-empty --max-args=1 aws batch terminate-job --region=us-east-1 --reason=stopped --job-id'
